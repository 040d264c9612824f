"""The LoRA bank: N adapters over one frozen UNet, one in training or a different choice for each sample.

peft defines the initialisation, the arithmetic and (with diffusers' prefix) the names of the state dict.
Knows nothing about files or their dialects; the arithmetic of one layer is sdxl/lora_layer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from contracts.base import TargetSet
from sdxl.lora_layer import TRAINING, LoraLinear, Selection

PREFIX = "unet."
_ATTENTION = re.compile(r"\.attn[12]\.to_(q|k|v|out\.0)$")
_FEED_FORWARD = re.compile(r"\.(ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)$")
_KEY_STEP = 0x9E3779B97F4A7C15
"""Keeps the dropout masks of different layers apart: multiples of it spread over 64 bits."""


def attach(
    unet: nn.Module, *, rank: int, alpha: float, targets: TargetSet, seed: int, dropout: float = 0.0
) -> LoraBank:
    """Put one trainable adapter on a UNet; it is selected for every sample until ``select`` says otherwise.

    The UNet's own weights are frozen and never change. A and B are fp32, cast once a forward pass to the
    dtype of the activations; without autocast.

    Args:
        rank: width of the update.
        alpha: the update is scaled by alpha / rank.
        targets: which layers.
        seed: of the initialisation; the global generator is not touched.
        dropout: share of the adapter's inputs zeroed while ``dropout_keys`` are set.
    """
    unet.requires_grad_(False)
    bank = LoraBank(unet, targets)
    generator = torch.Generator().manual_seed(seed)
    for layer in bank.layers.values():
        layer.add_training(rank, alpha, dropout, generator)
    bank.select([{TRAINING: 1.0}])
    return bank


def serve(unet: nn.Module) -> LoraBank:
    """Put an empty bank on every layer any target set adapts, to ``add`` trained adapters to."""
    return LoraBank(unet, "attn-ff")


def target_modules(unet: nn.Module, targets: TargetSet) -> dict[str, nn.Linear]:
    """The layers of a target set by name, in the UNet's own order."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear)
        and (_ATTENTION.search(name) or (targets == "attn-ff" and _FEED_FORWARD.search(name)))
    }


class LoraBank:
    """Adapters on one UNet. Make it with ``attach`` (training) or ``serve`` (generation)."""

    def __init__(self, unet: nn.Module, targets: TargetSet) -> None:
        self._unet = unet
        self.layers: dict[str, LoraLinear] = {}
        self.names: set[str] = set()
        self._selected: tuple[tuple[tuple[str, float], ...], ...] | None = None
        for name, linear in target_modules(unet, targets).items():
            layer = LoraLinear(linear)
            layer.train(linear.training)
            _replace(unet, name, layer)
            self.layers[name] = layer

    @property
    def module_names(self) -> tuple[str, ...]:
        """The adapted layers, by their names in the UNet."""
        return tuple(self.layers)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out features, in features) of each adapted layer: what a file must fit."""
        return {name: (layer.base.out_features, layer.base.in_features) for name, layer in self.layers.items()}

    @property
    def element_bytes(self) -> int:
        """Of a held adapter's numbers, which take the base's dtype."""
        return next(iter(self.layers.values())).base.weight.element_size()

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: A and B of each layer, in the UNet's order."""
        return [p for layer in self.layers.values() for p in (layer.lora_A, layer.lora_B) if p is not None]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The adapter in training under diffusers' PEFT keys; the tensors are the live ones, detached."""
        state = {}
        for name, layer in self.layers.items():
            if layer.lora_A is not None and layer.lora_B is not None:
                state[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach()
                state[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Set the adapter in training.

        Raises:
            ValueError: the keys are not exactly those of ``state_dict``.
        """
        live = self.state_dict()
        if live.keys() != state.keys():
            first = sorted(live.keys() ^ state.keys())[0]
            raise ValueError(f"{len(live.keys() ^ state.keys())} keys differ from the adapter's, such as {first}")
        for key, tensor in live.items():
            tensor.copy_(state[key])

    def add(self, name: str, state: Mapping[str, torch.Tensor], *, alpha: float | None = None) -> None:
        """Hold a trained adapter, in the base's dtype and on its device.

        Args:
            name: what ``select`` calls it; an adapter of that name is replaced.
            state: under diffusers' PEFT keys; layers it lacks stay as the base has them.
            alpha: the update is scaled by alpha / rank of each layer; None is the rank.

        Raises:
            ValueError: a key or a shape belongs to no layer here; nothing was changed.
        """
        if name == TRAINING:
            raise ValueError(f"'{TRAINING}' is the adapter in training")
        held = {layer: self._prepare(layer, state, alpha) for layer in _modules_of(state)}
        self.remove(name)
        for layer, matrices in held.items():
            self.layers[layer].held[name] = matrices
        self.names.add(name)

    def remove(self, name: str) -> None:
        """Forget an adapter; the base acts alone until the next ``select`` if it was in use."""
        if any(name == chosen for choice in self._selected or () for chosen, _ in choice):
            self.select([{}])
        self.names.discard(name)
        for layer in self.layers.values():
            layer.held.pop(name, None)

    def select(self, per_sample: Selection) -> None:
        """Choose for each sample of the batch which adapters act on it and how strongly; {} is the base.

        When all samples choose alike, a batch of any size will do. Otherwise the batch must hold the samples
        in this order, once, or as often as guidance repeats them. A choice of the adapter in training other
        than "on every sample, alone" works on a copy of its weights as they are now, without gradients.

        Raises:
            ValueError: an adapter is not there, which must never silently mean the base.
        """
        known = self.names | ({TRAINING} if self.parameters() else set())
        if unknown := {name for choice in per_sample for name in choice} - known:
            raise ValueError(f"no adapter {sorted(unknown)} in the bank")
        if not per_sample:
            raise ValueError("a selection needs at least one sample")
        wanted = tuple(tuple((n, s) for n, s in choice.items() if s != 0) for choice in per_sample)
        if wanted == self._selected and not any(n == TRAINING for choice in wanted for n, _ in choice):
            return
        choices = [dict(choice) for choice in wanted]
        with torch.no_grad():
            for layer in self.layers.values():
                _apply(layer, choices)
        self._selected = wanted

    def dropout_keys(self, keys: Sequence[int] | None) -> None:
        """Turn dropout on with one key for each sample of the next batches; None turns it off.

        A mask is a function of (key, layer), so it does not depend on the batch's make-up and comes out the
        same when gradient checkpointing recomputes a layer.
        """
        for number, layer in enumerate(self.layers.values(), start=1):
            layer.dropout_keys = None if keys is None else tuple((k + number * _KEY_STEP) % 2**63 for k in keys)

    def detach(self) -> None:
        """Give the UNet its own layers back."""
        for name, layer in self.layers.items():
            _replace(self._unet, name, layer.base)
        self.layers.clear()
        self.names.clear()
        self._selected = None

    def _prepare(
        self, name: str, state: Mapping[str, torch.Tensor], alpha: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self.layers.get(name)
        if layer is None:
            raise ValueError(f"the UNet has no layer {name} to adapt")
        weight = layer.base.weight
        down, up = state.get(f"{PREFIX}{name}.lora_A.weight"), state.get(f"{PREFIX}{name}.lora_B.weight")
        if down is None or up is None:
            raise ValueError(f"{name} has only one of lora_A and lora_B")
        if down.shape[1] != weight.shape[1] or up.shape != (weight.shape[0], len(down)):
            raise ValueError(f"{name}: {tuple(up.shape)} x {tuple(down.shape)} does not fit {tuple(weight.shape)}")
        scaled = up.float() * ((alpha or len(down)) / len(down))
        return down.to(weight), scaled.to(weight)


def _modules_of(state: Mapping[str, Any]) -> list[str]:
    modules: dict[str, None] = {}
    for key in state:
        match = re.fullmatch(r"unet\.(.+)\.lora_[AB]\.weight", key)
        if match is None:
            raise ValueError(f"{key} is no LoRA key")
        modules[match[1]] = None
    return list(modules)


def _apply(layer: LoraLinear, choices: Selection) -> None:
    first = choices[0]
    if any(choice != first for choice in choices):
        layer.use_mixed(choices)
    elif not first:
        layer.use_base()
    elif set(first) == {TRAINING}:
        layer.use_training(first[TRAINING])
    else:
        layer.use_same(first)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
