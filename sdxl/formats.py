"""Weights files by what they are for: LoRAs in any dialect and full fine-tunes, written for stock loaders.

`python -m sdxl.formats inspect FILE`, `convert IN OUT --dialect kohya` and `export-full WEIGHTS --base BASE` do by
hand what the functions here and in the files beside it do. Knows nothing about registries or models.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from contracts.adapter import AdapterHeader
from sdxl import dialects, tensor_files
from sdxl.adapter import WeightShapes, from_state, require_fit
from sdxl.dialects import ADAPTER_METADATA, PEFT_WEIGHTS, Adapter, Dialect
from sdxl.formats_cli import main
from sdxl.full import check_full, components_of, full_tensors, named_weights, require_base, save_full, trained_weights
from sdxl.hashes import tail_hash

__all__ = [
    "ADAPTER_METADATA",
    "Adapter",
    "check_full",
    "components_of",
    "full_tensors",
    "load_adapter",
    "named_weights",
    "read_header",
    "save_adapter",
    "save_full",
    "tail_hash",
    "trained_weights",
]


def save_adapter(
    path: Path,
    state: Mapping[str, torch.Tensor],
    header: AdapterHeader,
    alphas: Mapping[str, float] | None = None,
    *,
    dialect: Dialect = "diffusers",
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a LoRA, with rank and alpha where stock loaders look for them.

    Args:
        state: under PEFT keys, each with its component: ``unet.….lora_A.weight``.
        alphas: by module (``unet.down_blocks…``); where one is missing it is the header's, or else the rank.
        notes: more of kohya's ``ss_*`` entries, on how it was trained.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, the dialect has no words for it.
    """
    modules = {key.rsplit(".lora_", 1)[0] for key in state}
    usual = {} if header.alpha is None else dict.fromkeys(modules, header.alpha)
    metadata = {**(notes or {}), **header.to_metadata()}
    dialects.write(path, from_state(state, usual | dict(alphas or {})), metadata, dialect)


def load_adapter(path: Path, *, layers: WeightShapes | None = None, base_identity: str | None = None) -> Adapter:
    """Read a LoRA in any dialect, refusing whatever is not exactly that.

    Args:
        layers: weight shapes of the layers it may act on; None leaves them unchecked.
        base_identity: of the base it will act on; a file that names another is refused.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH, with the reason.
    """
    adapter = dialects.read(path)
    require_base(adapter.header, base_identity)
    if layers is not None:
        require_fit(adapter.modules, layers)
    return adapter


def read_header(path: Path) -> AdapterHeader | None:
    """Our header of a weights file or a PEFT folder; None when it was made elsewhere.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it is no safetensors file.
    """
    if path.is_dir():
        path = next(path.glob(f"*/{PEFT_WEIGHTS}"), path)
    with tensor_files.opened(path) as file:
        return AdapterHeader.from_metadata(file.metadata())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
