"""What a run trains: LoRA adapters over frozen networks, or networks whole. Either way: named parameters.

Knows nothing about losses, checkpoints or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contracts.failures import InvalidInput, keys_in
from contracts.lora import MISSPELT_HINT, PATTERNS, UNET, misspelt
from contracts.train import TrainConfig
from sdxl import attention
from sdxl.base import TEXT_COMPONENTS, Base, load_base
from sdxl.files import open_base
from sdxl.formats import named_weights, trained_weights
from sdxl.lora import LoraBank, adapted_modules, attach_all, peft_name
from sdxl.networks import empty_network
from trainer.average import Average
from trainer.flat import FlatParameters
from trainer.strengths import Strengths

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Trainable:
    """The model in training."""

    base: Base
    """Holds the UNet that is called, and the text encoders where one of them is trained; the VAE is not loaded."""
    bank: LoraBank | None
    parameters: FlatParameters
    peak_rates: Mapping[str, float]
    """Learning rate at its highest of each group of the parameters."""
    compute: Callable[[], AbstractContextManager[Any]]
    """Enter it around every call of a network in training."""
    unread: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What is left as it is of a text encoder that is trained whole, by the names that weights files have for it."""
    average: Average | None = None
    """Of the parameters, where it is wanted."""
    strengths: Strengths | None = None
    """Of an adapter's layers, where a recipe has some."""

    @contextmanager
    def as_published(self) -> Iterator[None]:
        """Inside, the weights are those that are measured, shown and published: averaged, with their strengths."""
        with ExitStack() as stack:
            for changed in (self.average, self.strengths):
                if changed is not None:
                    stack.enter_context(changed.in_place())
            yield

    def kept(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint keeps of it: named tensors, by group."""
        averages = {} if self.average is None else {"average": self.parameters.split(self.average.vector)}
        return {"weights": self.state(), **averages}

    def restore(self, tensors: Callable[[str], Mapping[str, torch.Tensor]]) -> None:
        """Go on from what was kept, given by group."""
        self.parameters.fill(self.parameters.vector.data, tensors("weights"))
        if self.average is not None:
            self.parameters.fill(self.average.vector, tensors("average"))

    def published(self) -> dict[str, torch.Tensor]:
        """``state``, and of networks that are trained whole the rest too."""
        return {**self.state(), **self.unread}

    def state(self) -> dict[str, torch.Tensor]:
        """The trained tensors by the names they are saved under (views of the live ones)."""
        return self.parameters.split(self.parameters.vector.data)


def load_trainable(path: Path, config: TrainConfig, device: torch.device) -> Trainable:
    """Load the UNet, and the text encoders where one is trained, and make them trainable as ``config`` says."""
    compute_dtype = DTYPES[config.precision]
    full = config.method == "full"
    # The parameters of a full fine-tune are its master weights.
    in_bf16 = full and config.full.master_weights == "bf16-stochastic"
    # A prompt's conditioning is made of both encoders, also when one of them is trained.
    components = {UNET, *TEXT_COMPONENTS} if config.trains_text else {UNET}
    dtype = torch.float32 if full and not in_bf16 else compute_dtype
    base = load_base(path, dtype=dtype, device=device, components=components, quantize=config.quantize)
    unet = base.unet
    if device.type == "cpu":
        attention.use_in(unet)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if full:
        groups, unread = _whole(base, config.trained_text_encoders)
        parameters = FlatParameters(groups, gradient=not config.full.fused_backward)
        rates = config.full.learning_rates(config.optimizer.learning_rate)
        # Autocast computes with copies of them in the type that is computed with.
        cast = compute_dtype is not dtype
        return Trainable(
            base,
            None,
            parameters,
            rates,
            lambda: torch.autocast(device.type, compute_dtype) if cast else nullcontext(),
            unread=unread,
        )
    adapted = config.lora.adaptations()
    bank = attach_all({name: getattr(base, name) for name in adapted}, adapted, seed=config.seed)
    parameters = FlatParameters({name: bank.named_parameters(name) for name in adapted})
    rates = config.lora.learning_rates(config.optimizer.learning_rate)
    strengths = Strengths(bank.named_parameters(), config.lora.strength_pattern)
    return Trainable(base, bank, parameters, rates, nullcontext, strengths=strengths)


def _whole(base: Base, encoders: Sequence[str]) -> tuple[dict[str, dict[str, nn.Parameter]], dict[str, torch.Tensor]]:
    """What is trained of the UNet and these text encoders, by component, and what is left of them as it is."""
    groups: dict[str, dict[str, nn.Parameter]] = {}
    unread: dict[str, torch.Tensor] = {}
    for component in (UNET, *encoders):
        # A file of a UNet alone has diffusers' own keys.
        prefix = f"{component}." if encoders else ""
        network = getattr(base, component)
        trained = trained_weights(component, network)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        groups[component] = {prefix + name: parameter for name, parameter in trained.items()}
        for name, parameter in named_weights(component, network).items():
            if name not in trained:
                unread[prefix + name] = parameter.data
    return groups, unread


def check_patterns(path: Path, config: TrainConfig) -> None:
    """Refuse patterns of ranks, alphas and strengths that fit no adapted layer of the base; reads no weight.

    Raises:
        InvalidInput: every one of them at once.
    """
    if config.method != "lora" or not any(getattr(config.lora, field) for field in PATTERNS):
        return
    files, names = open_base(path), list[str]()
    for component, how in config.lora.adaptations().items():
        names += [peft_name(component, n) for n in adapted_modules(empty_network(files, component), how)]
    if errors := misspelt(config.lora, [name.partition(".")[2] for name in names]):
        idle = ", ".join(dict.fromkeys(keys_in(error.pointer)[-1] for error in errors))
        message = f"No adapted layer of the base has a name that fits {idle}."
        raise InvalidInput(errors, message=message, hint=MISSPELT_HINT)
