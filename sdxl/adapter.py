"""A LoRA in memory, the one form that every dialect is read into and written from, and its state dict under PEFT keys.

A module is named by its component and diffusers' name: ``unet.down_blocks.1.attentions.0.proj_in``,
``text_encoder.text_model.encoder.layers.0.mlp.fc1`` (CLIP-L), ``text_encoder_2.text_model…`` (OpenCLIP bigG).
Knows nothing about files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sdxl.tensor_files import finite, unreadable

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
MAX_RANK = 256
MAX_ALPHA = 1e6

Modules = dict[str, "AdapterModule"]
WeightShapes = Mapping[str, tuple[int, ...]]
"""Module name -> shape of the layer's weight. A name without a component is the UNet's."""

_PARTS = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude"}
_NAME = re.compile(r"(?:unet|text_encoder|text_encoder_2)(?:\.[a-z0-9_]+)+")


@dataclass(frozen=True)
class AdapterModule:
    """What one layer is changed by: W + (alpha / rank) up·down (Hu et al. 2021), with DoRA then scaled row by row.

    Args:
        down: (rank, in), or (rank, in, kernel, kernel) for a convolution; "A".
        up: (out, rank), or (out, rank, 1, 1); "B".
        alpha: rounded to fp32, as which dialects carry it; rsLoRA's is alpha * sqrt(rank).
        magnitude: (out,) of DoRA (Liu et al. 2024, arXiv:2402.09353): the norms the rows shall have; None without it.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    magnitude: torch.Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", as_carried(self.alpha))

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the layer it fits."""
        return (len(self.up), *self.down.shape[1:])


def as_carried(alpha: float) -> float:
    """The shortest decimal that is the same fp32 number: 0.1 stays 0.1 through a dialect that keeps it as a tensor."""
    return float(str(np.float32(alpha)))


def from_state(state: Mapping[str, torch.Tensor], alphas: Mapping[str, float] | None = None) -> Modules:
    """Modules out of a state dict under PEFT keys.

    Args:
        state: ``<module>.lora_A.weight``, ``.lora_B.weight``, and with DoRA ``.lora_magnitude_vector``.
        alphas: by module; where one is missing it is the module's rank.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, a key, shape, rank or number is not what it should be.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        part = next((part for part in _PARTS if key.endswith(f".{part}")), None)
        name = key.removesuffix(f".{part}")
        if part is None or not _NAME.fullmatch(name):
            raise unreadable(f"'{key[:120]}' is no key of a LoRA for SDXL.")
        found.setdefault(name, {})[_PARTS[part]] = finite(key, tensor)
    if not found:
        raise unreadable("There is no adapted layer in it.")
    return {name: _module(name, parts, (alphas or {}).get(name)) for name, parts in found.items()}


def to_state(modules: Mapping[str, AdapterModule]) -> dict[str, torch.Tensor]:
    """The state dict under PEFT keys; magnitudes have the shape peft gives them."""
    state = {}
    for name, module in modules.items():
        state[f"{name}.lora_A.weight"] = module.down
        state[f"{name}.lora_B.weight"] = module.up
        if module.magnitude is not None:
            is_conv = module.down.ndim == 4
            state[f"{name}.lora_magnitude_vector"] = (
                module.magnitude.reshape(1, -1, 1, 1) if is_conv else module.magnitude
            )
    return state


def require_fit(modules: Mapping[str, AdapterModule], shapes: WeightShapes) -> None:
    """Make sure each module acts on a layer that is there.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, with the first that does not.
    """
    for name, module in modules.items():
        shape = shapes.get(name, shapes.get(name.removeprefix("unet.")))
        if shape is None or tuple(shape) != module.weight_shape:
            raise unreadable(f"{name} ({' x '.join(map(str, module.weight_shape))}) fits no layer of the base.")


def in_component(modules: Mapping[str, AdapterModule], component: str) -> Modules:
    """The modules of one component, by their names inside it."""
    start = f"{component}."
    return {name.removeprefix(start): module for name, module in modules.items() if name.startswith(start)}


def most_common_alpha(modules: Mapping[str, AdapterModule]) -> float:
    """The alpha most modules have."""
    return Counter(module.alpha for module in modules.values()).most_common(1)[0][0]


def _module(name: str, parts: Mapping[str, torch.Tensor], alpha: float | None) -> AdapterModule:
    down, up, magnitude = parts.get("down"), parts.get("up"), parts.get("magnitude")
    if down is None or up is None:
        raise unreadable(f"{name} has only one of lora_A and lora_B.")
    if down.ndim not in (2, 4) or up.ndim != down.ndim or (up.ndim == 4 and up.shape[2:] != (1, 1)):
        shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
        raise unreadable(f"{name} has shapes {shapes}; only linear layers and convolutions are adapted.")
    rank = len(down)
    if rank != up.shape[1] or not 1 <= rank <= MAX_RANK:
        raise unreadable(f"{name} has rank {rank} and {up.shape[1]}; both must agree, from 1 to {MAX_RANK}.")
    if magnitude is not None and magnitude.numel() != len(up):
        raise unreadable(f"{name} has {magnitude.numel()} magnitudes for {len(up)} outputs.")
    alpha = float(rank) if alpha is None else alpha
    if not (math.isfinite(alpha) and 0 < alpha < MAX_ALPHA):
        raise unreadable(f"{name}: its alpha is {alpha}.")
    return AdapterModule(down, up, alpha, None if magnitude is None else magnitude.reshape(-1))
