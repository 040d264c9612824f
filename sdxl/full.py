"""Full fine-tunes on disk: one safetensors file with the UNet, and with the text encoders where they were trained.

A file of a UNet alone has diffusers' own keys; with text encoders each key begins with its component. Knows
nothing about registries or models: shapes to check against come from the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode, PatinaError
from sdxl import tensor_files
from sdxl.adapter import COMPONENTS
from sdxl.tensor_files import TAIL_HASH, unreadable

full_tensors = tensor_files.finite_tensors


def save_full(path: Path, state: Mapping[str, torch.Tensor], header: AdapterHeader) -> None:
    """Write what was trained, under the names it is trained by."""
    metadata = header.to_metadata() | {"format": "pt", TAIL_HASH: ""}
    tensor_files.write(path, tensor_files.entries_of(state), metadata)


def check_full(path: Path, shapes: Mapping[str, tuple[int, ...]], *, base_identity: str | None = None) -> None:
    """Make sure a fine-tune fits the base; reads the file's header only.

    Args:
        shapes: of every tensor that is to be exchanged, by the file's keys.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH, with the reason.
    """
    with tensor_files.opened(path) as file:
        require_base(AdapterHeader.from_metadata(file.metadata()), base_identity)
        table = tensor_files.shapes_of(file)
    require_same(table, shapes, "UNet")


def require_same(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Refuse tensors that are not those of the base's ``what``, name for name and shape for shape.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE.
    """
    if differing := sorted(found.keys() ^ wanted.keys()):
        raise unreadable(f"{len(differing)} tensors differ from the base's {what}, such as {differing[0]}.")
    for name, shape in found.items():
        if shape != wanted[name]:
            raise unreadable(f"{name} has shape {shape}, the base's has {wanted[name]}.")


def keys_by_component(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """component -> (diffusers' name inside it -> key in the file).

    Names of text encoders begin with ``text_model.`` or ``text_projection.``, whichever library wrote them.
    """
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        component, _, name = key.partition(".")
        if component not in COMPONENTS:
            component, name = "unet", key
        elif component != "unet" and not name.startswith(("text_model.", "text_projection.")):
            name = f"text_model.{name}"
        found.setdefault(component, {})[name] = key
    return found


def require_base(header: AdapterHeader | None, base_identity: str | None) -> None:
    """Refuse weights that say they belong to another base.

    Raises:
        PatinaError: BASE_MISMATCH.
    """
    if header is not None and base_identity is not None and header.base_identity != base_identity:
        raise PatinaError(
            FailureCode.BASE_MISMATCH,
            f"'{header.name}' belongs to base {header.base_identity}, not to base {base_identity}.",
        )
