"""A base, with a full fine-tune's weights in place of its own where there are some, written out whole.

As a diffusers folder or as one file in the original SDXL layout; read back, either gives the same tensors and
identity. One tensor is in memory at a time. Knows nothing about training.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode, PatinaError
from sdxl import files as base_files
from sdxl import original, tensor_files
from sdxl.dialects import said
from sdxl.files import COMPONENTS, BaseFiles
from sdxl.full import keys_by_component, require_base, require_same
from sdxl.identity import identities
from sdxl.networks import schedule_as_trained, scheduler_config
from sdxl.tensor_files import TAIL_HASH, Entry, finite, unreadable
from sdxl.to_original import Origin, origins

V_PREDICTION_MARK = "v_pred"
"""An empty tensor of this name tells a single file's loader what its UNet predicts."""
ZERO_SNR_MARK = "ztsnr"


@dataclass(frozen=True)
class Whole:
    """What is written out.

    Args:
        files: of the base.
        weights: of the fine-tune; None is the base itself.
        header: of the fine-tune, when it has one of ours.
        metadata: what the fine-tune's file says of itself.
    """

    files: BaseFiles
    weights: Path | None
    header: AdapterHeader | None
    metadata: dict[str, str]

    @property
    def schedule(self) -> dict[str, Any]:
        """The scheduler's config as it was trained for."""
        own = scheduler_config(self.files)
        if self.header is None:
            return own
        return schedule_as_trained(own, self.header.prediction_type, self.header.zero_terminal_snr)


def open_whole(files: BaseFiles, weights: Path | None = None, *, cache_dir: Path | None = None) -> Whole:
    """Bring a base and a fine-tune of it together.

    Args:
        cache_dir: where identities of bases seen before are kept; None computes it.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH: they do not belong together.
    """
    if weights is None:
        return Whole(files, None, None, {})
    with tensor_files.opened(weights) as file:
        table, metadata = tensor_files.shapes_of(file), file.metadata() or {}
    if any("lora" in key for key in table):
        raise PatinaError(
            FailureCode.WEIGHTS_UNREADABLE,
            f"{weights.name} is a LoRA: it changes a model, and there is no whole one in it.",
            "`python -m sdxl.formats convert` brings a LoRA into another form.",
        )
    header = AdapterHeader.from_metadata(metadata)
    for component, keys in keys_by_component(table).items():
        require_same({name: table[key] for name, key in keys.items()}, base_files.shapes(files, component), component)
    if header is not None:
        require_base(header, identities(files, cache_dir)[0])
    return Whole(files, weights, header, said(metadata))


def export_folder(whole: Whole, out: Path, dtype: torch.dtype | None = None) -> None:
    """Write a diffusers folder, under a temporary name until it is whole.

    Args:
        out: must not be there yet.
        dtype: of all weights; None leaves each as it is.

    Raises:
        PatinaError: there is something under that name, or a tensor is no finite number.
    """
    if out.exists():
        raise PatinaError(FailureCode.CONFLICT, f"There is something at {out.name} already.", "Choose another name.")
    files = whole.files
    temporary = out.with_name(f".tmp-{os.getpid()}-{out.name}")
    try:
        temporary.mkdir(parents=True)
        _write_json(temporary / "model_index.json", base_files.model_index(files))
        _write_json(temporary / "scheduler" / "scheduler_config.json", whole.schedule)
        for tokenizer in ("tokenizer", "tokenizer_2"):
            _copy(files.tokenizer_dir / tokenizer, temporary / tokenizer)
        for component in COMPONENTS:
            settings = base_files.config(files, component)
            if dtype is not None:
                said_dtype = {key: str(dtype).removeprefix("torch.") for key in ("dtype", "torch_dtype")}
                settings |= {key: value for key, value in said_dtype.items() if key in settings}
            _write_json(temporary / component / "config.json", settings)
            stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
            entries = {
                name: Entry(dtype or tensor.dtype, tuple(tensor.shape), partial(_cast, name, tensor, dtype))
                for name, tensor in _tensors(whole, component).items()
            }
            tensor_files.write(temporary / component / f"{stem}.safetensors", entries, {"format": "pt"})
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def export_single_file(whole: Whole, out: Path, dtype: torch.dtype | None = None) -> None:
    """Write one .safetensors checkpoint in the original SDXL layout.

    Args:
        dtype: of all weights; None leaves each as it is.

    Raises:
        PatinaError: the layout has no place for one of the base's tensors, or a tensor is no finite number.
    """
    layers = base_files.config(whole.files, "unet").get("layers_per_block", original.LAYERS_PER_BLOCK)
    if not original.counts(layers):
        raise unreadable(f"Its UNet has {layers} layers a block; the original layout's numbers count two.")
    entries: dict[str, Entry] = {}
    try:
        for component in COMPONENTS:
            tensors = _tensors(whole, component)
            for origin in origins(component, tensors):
                sources = [tensors[source] for source in origin.sources]
                shape = origin.combine([torch.empty(t.shape, device="meta") for t in sources]).shape
                read = partial(_combined, origin, sources, dtype)
                entries[origin.name] = Entry(dtype or sources[0].dtype, tuple(shape), read)
    except (ValueError, KeyError) as error:
        raise unreadable(f"It cannot be one file in the original layout: {error}.") from None
    for mark in _marks(whole):
        entries[mark] = Entry(torch.float32, (0,), partial(torch.empty, 0))
    tensor_files.write(out, entries, _checkpoint_words(whole, out) | {"format": "pt", TAIL_HASH: ""})


def _tensors(whole: Whole, component: str) -> dict[str, torch.Tensor]:
    """A component's tensors by diffusers name, mapped from disk."""
    if whole.weights is not None:
        with tensor_files.opened(whole.weights) as file:
            keys = keys_by_component(tensor_files.names_of(file)).get(component)
            if keys is not None:
                return {name: file.get_tensor(key) for name, key in keys.items()}
    return dict(base_files.tensors(whole.files, component))


def _combined(origin: Origin, sources: Sequence[torch.Tensor], dtype: torch.dtype | None) -> torch.Tensor:
    return _cast(origin.name, origin.combine(sources), dtype)


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Checked after the cast: what fp16 cannot hold would become infinite."""
    return finite(name, tensor.to(dtype or tensor.dtype))


def _marks(whole: Whole) -> list[str]:
    marks = [V_PREDICTION_MARK] if whole.schedule["prediction_type"] == "v_prediction" else []
    return [*marks, ZERO_SNR_MARK] if whole.schedule.get("rescale_betas_zero_snr") else marks


def _checkpoint_words(whole: Whole, out: Path) -> dict[str, str]:
    defaults = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": out.stem,
        "modelspec.prediction_type": "v" if whole.schedule["prediction_type"] == "v_prediction" else "epsilon",
    }
    implementation = defaults["modelspec.implementation"]
    return defaults | whole.metadata | {"modelspec.implementation": implementation}


def _copy(folder: Path, out: Path) -> None:
    """The files of a folder, not its folders. Unlike shutil's copytree it says of a full disk what the system said."""
    out.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            shutil.copyfile(path, out / path.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
