"""The LoRA bank: N adapters over frozen networks, one in training or a different choice for each sample.

peft defines the initialisation, the arithmetic and (with diffusers' prefixes) the names of the state dict.
Knows nothing about files or their dialects; the arithmetic of one layer is sdxl/lora_layer.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from contracts.base import TargetSet
from contracts.lora import TEXT_ENCODERS, UNET, Adaptation
from sdxl.lora_layer import TRAINING, LoraLayer, Selection

_KEY_STEP = 0x9E3779B97F4A7C15
"""Keeps the dropout masks of different layers apart: multiples of it spread over 64 bits."""
_COMPONENT_STEP = 2**20
"""Layers a component may have, so that another component's number of them changes no mask."""
_KEY = re.compile(r"(?P<layer>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
_SERVED = {
    UNET: Adaptation(rank=1, alpha=1, targets="attn-ff-conv"),
    **{name: Adaptation(rank=1, alpha=1) for name in TEXT_ENCODERS},
}


def attach(
    unet: nn.Module, *, rank: int, alpha: float, targets: TargetSet, seed: int, dropout: float = 0.0
) -> LoraBank:
    """Put one plain trainable adapter on a UNet; see ``attach_all``."""
    adaptation = Adaptation(rank=rank, alpha=alpha, targets=targets, dropout=dropout)
    return attach_all({UNET: unet}, {UNET: adaptation}, seed=seed)


def attach_all(networks: Mapping[str, nn.Module], adaptations: Mapping[str, Adaptation], *, seed: int) -> LoraBank:
    """Put one trainable adapter on networks; it is selected for every sample until ``select`` says otherwise.

    Their own weights are frozen and never change. The adapter is fp32, cast once a forward pass to the dtype of the
    activations; without autocast. A layer's initialisation depends on the seed and its name alone, and the global
    generator is not touched.

    Args:
        networks: by component, as diffusers names them.
        adaptations: of those components that are adapted.
    """
    for network in networks.values():
        network.requires_grad_(False)
    bank = LoraBank(networks, adaptations)
    for key, layer in bank.layers.items():
        component, _, name = key.partition(".")
        how = adaptations[component]
        generator = torch.Generator().manual_seed(_seed_of(seed, key))
        layer.add_training(how.rank_of(name), how.alpha_of(name), generator, dropout=how.dropout, dora=how.dora)
    bank.select([{TRAINING: 1.0}])
    return bank


def serve(unet: nn.Module) -> LoraBank:
    """Put an empty bank on every layer any target set adapts, to ``add`` trained adapters to."""
    return LoraBank({UNET: unet}, _SERVED)


def serve_texts(text_encoder: nn.Module, text_encoder_2: nn.Module) -> LoraBank:
    """As ``serve``, on the layers of both text encoders."""
    return LoraBank({"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}, _SERVED)


def target_modules(unet: nn.Module, targets: TargetSet) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers of a target set by name, in the UNet's own order."""
    return adapted_modules(unet, Adaptation(rank=1, alpha=1, targets=targets))


def adapted_modules(network: nn.Module, how: Adaptation) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers of a network that are adapted by name, in its own order."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and how.adapts(name)
    }


def peft_name(component: str, name: str) -> str:
    """A layer's name as files have it: of a text encoder always with text_model, which some of its classes lack."""
    if component in TEXT_ENCODERS:
        name = "text_model." + name.removeprefix("text_model.")
    return f"{component}.{name}"


class LoraBank:
    """Adapters on networks. Make it with ``attach`` (training) or ``serve`` (generation)."""

    def __init__(self, networks: Mapping[str, nn.Module], adaptations: Mapping[str, Adaptation]) -> None:
        self.layers: dict[str, LoraLayer] = {}
        """By PEFT's name with the component in front, such as unet.mid_block.attentions.0.proj_in."""
        self.names: set[str] = set()
        self.components = tuple(name for name in networks if name in adaptations)
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._mask_numbers: dict[str, int] = {}
        self._selected: tuple[tuple[tuple[str, float], ...], ...] | None = None
        for component in self.components:
            network = networks[component]
            start = [UNET, *TEXT_ENCODERS].index(component) * _COMPONENT_STEP
            for number, (name, module) in enumerate(adapted_modules(network, adaptations[component]).items(), start=1):
                key = peft_name(component, name)
                layer = LoraLayer(module)
                layer.train(module.training)
                _replace(network, name, layer)
                self.layers[key], self._places[key] = layer, (network, name)
                self._mask_numbers[key] = start + number

    @property
    def module_names(self) -> tuple[str, ...]:
        """The adapted layers, by PEFT's names with the component in front."""
        return tuple(self.layers)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(out, in) or (out, in, kh, kw) of each adapted layer: what a file must fit."""
        return {key: layer.shape for key, layer in self.layers.items()}

    @property
    def alphas(self) -> dict[str, float]:
        """Of each layer in training: the update is alpha / rank · B A, rank being its A's first dimension."""
        return {key: layer.alpha for key, layer in self.layers.items() if layer.lora_A is not None}

    @property
    def element_bytes(self) -> int:
        """Of a held adapter's numbers, which take the base's dtype."""
        return next(iter(self.layers.values())).base.weight.element_size()

    def named_parameters(self, component: str = "") -> dict[str, nn.Parameter]:
        """What is trained, of one component or of all, under diffusers' PEFT keys in the networks' order."""
        return {
            f"{key}.{part}": parameter
            for key, layer in self.layers.items()
            if component in ("", key.partition(".")[0])
            for part, parameter in layer.trained().items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in that order."""
        return list(self.named_parameters().values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The adapter in training under diffusers' PEFT keys; the tensors are the live ones, detached."""
        return {key: parameter.detach() for key, parameter in self.named_parameters().items()}

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

    def add(
        self, name: str, state: Mapping[str, torch.Tensor], *, alpha: float | Mapping[str, float] | None = None
    ) -> None:
        """Hold a trained adapter, in the base's dtype and on its device.

        Args:
            name: what ``select`` calls it; an adapter of that name is replaced.
            state: under diffusers' PEFT keys; layers it lacks stay as the base has them.
            alpha: the update is scaled by alpha / rank of each layer; one for all or by layer, None is the rank.

        Raises:
            ValueError: a key or a shape belongs to no layer here; nothing was changed.
        """
        if name == TRAINING:
            raise ValueError(f"'{TRAINING}' is the adapter in training")
        held = {}
        for key, parts in _by_layer(state).items():
            if key not in self.layers:
                raise ValueError(f"the networks have no layer {key} to adapt")
            if not {"lora_A.weight", "lora_B.weight"} <= parts.keys():
                raise ValueError(f"{key} has only one of lora_A and lora_B")
            own = alpha.get(key) if isinstance(alpha, Mapping) else alpha
            try:
                held[key] = self.layers[key].prepare(
                    parts["lora_A.weight"], parts["lora_B.weight"], parts.get("lora_magnitude_vector"), own
                )
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        self.remove(name)
        for key, update in held.items():
            self.layers[key].held[name] = update
        self.names.add(name)

    def acting(self, choice: Mapping[str, float]) -> dict[str, float]:
        """Those of a choice that have weights for any layer here."""
        return {name: s for name, s in choice.items() if any(name in layer.held for layer in self.layers.values())}

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
        known = self.names | ({TRAINING} if self.alphas else set())
        if unknown := {name for choice in per_sample for name in choice} - known:
            raise ValueError(f"no adapter {sorted(unknown)} in the bank")
        if not per_sample:
            raise ValueError("a selection needs at least one sample")
        wanted = tuple(tuple((n, s) for n, s in choice.items() if s != 0) for choice in per_sample)
        if wanted == self._selected and not any(n == TRAINING for choice in wanted for n, _ in choice):
            return
        choices = [dict(choice) for choice in wanted]
        # Should memory run out at one layer, those before it have the new choice and the others the old.
        self._selected = None
        with torch.no_grad():
            for layer in self.layers.values():
                _apply(layer, choices)
        self._selected = wanted

    def base_changed(self) -> None:
        """The networks' own weights are others now; adapters that depend on them are computed anew."""
        self._selected = None
        for layer in self.layers.values():
            for update in layer.held.values():
                if update.magnitude is not None:
                    update.magnitude.forget_base()

    def dropout_keys(self, keys: Sequence[int] | None, components: Collection[str] = (UNET,)) -> None:
        """Turn dropout on with one key for each sample of the next batches of components; None turns it off.

        A mask is a function of (key, layer), so it does not depend on the batch's make-up and comes out the
        same when gradient checkpointing recomputes a layer.
        """
        for key, layer in self.layers.items():
            if key.partition(".")[0] not in components:
                continue
            offset = self._mask_numbers[key] * _KEY_STEP
            layer.dropout_keys = None if keys is None else tuple((k + offset) % 2**63 for k in keys)

    def detach(self) -> None:
        """Give the networks their own layers back."""
        for key, layer in self.layers.items():
            _replace(*self._places[key], layer.base)
        self.layers.clear()
        self.names.clear()
        self._selected = None


def _seed_of(seed: int, key: str) -> int:
    """63 bits that depend on the seed and the layer's name, not on which other layers are adapted."""
    return int.from_bytes(hashlib.sha256(f"lora/{seed}/{key}".encode()).digest()[:8], "big") >> 1


def _by_layer(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = {}
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key} is no LoRA key")
        layers.setdefault(match["layer"], {})[match["part"]] = tensor
    return layers


def _apply(layer: LoraLayer, choices: Selection) -> None:
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
