"""Full fine-tunes on disk: one safetensors file with the UNet, and with the text encoders where they were trained.

A file of a UNet alone has diffusers' own keys; with text encoders each key begins with its component, and each of
them is there whole. Knows nothing about registries: shapes to check against come from the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode, PatinaError
from sdxl import tensor_files
from sdxl.adapter import COMPONENTS
from sdxl.tensor_files import TAIL_HASH, unreadable


def save_full(path: Path, state: Mapping[str, torch.Tensor], header: AdapterHeader) -> None:
    """Write what was trained, under the names it is trained by."""
    metadata = header.to_metadata() | {"format": "pt", TAIL_HASH: ""}
    tensor_files.write(path, tensor_files.entries_of(state), metadata)


def check_full(
    path: Path, weights: Mapping[str, Mapping[str, torch.Tensor]], *, base_identity: str | None = None
) -> set[str]:
    """Make sure a fine-tune fits the base; reads the file's header only.

    Args:
        weights: component -> name -> tensor of all that may be exchanged; on the meta device as well.

    Returns:
        The components that the file has.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH, with the reason.
    """
    with tensor_files.opened(path) as file:
        require_base(AdapterHeader.from_metadata(file.metadata()), base_identity)
        table = tensor_files.shapes_of(file)
    found = keys_by_component(table)
    if not found:
        raise unreadable("There is no tensor in it.")
    for component, keys in found.items():
        wanted = {name: tuple(tensor.shape) for name, tensor in weights[component].items()}
        require_same({name: table[key] for name, key in keys.items()}, wanted, component)
    return set(found)


def full_tensors(path: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    """The tensors of a fine-tune one at a time, each with its component and its name there.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, as soon as one holds something that is no finite number.
    """
    for key, tensor in tensor_files.finite_tensors(path):
        yield *_place(key), tensor


def components_of(path: Path) -> set[str]:
    """Which networks a fine-tune has weights of.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it is no safetensors file.
    """
    with tensor_files.opened(path) as file:
        return set(keys_by_component(tensor_files.names_of(file)))


def is_full(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a full fine-tune's."""
    return any(name in {"conv_in.weight", "unet.conv_in.weight"} for name in names)


def named_weights(component: str, network: nn.Module) -> dict[str, nn.Parameter]:
    """A network's parameters by the names that files have for them, whichever library wrote these."""
    return {_in_files(component, name): parameter for name, parameter in network.named_parameters()}


def trained_weights(component: str, network: Any) -> dict[str, nn.Parameter]:
    """Those of ``named_weights`` that a full fine-tune trains: all that what the UNet predicts depends on.

    SDXL reads CLIP-L before its last layer: that layer and the norm after it have no part in it.
    """
    named = named_weights(component, network)
    if component != "text_encoder":
        return named
    unread = (f"text_model.encoder.layers.{network.config.num_hidden_layers - 1}.", "text_model.final_layer_norm.")
    return {name: parameter for name, parameter in named.items() if not name.startswith(unread)}


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
    """component -> (diffusers' name inside it -> key in the file)."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        component, name = _place(key)
        found.setdefault(component, {})[name] = key
    return found


def _place(key: str) -> tuple[str, str]:
    component, _, name = key.partition(".")
    return (component, _in_files(component, name)) if component in COMPONENTS else ("unet", key)


def _in_files(component: str, name: str) -> str:
    """Names of text encoders begin with ``text_model.`` or ``text_projection.``, whichever library wrote them."""
    if component == "unet" or name.startswith(("text_model.", "text_projection.")):
        return name
    return f"text_model.{name}"


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
