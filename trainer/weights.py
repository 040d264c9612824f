"""What a run trains: LoRA adapters over a frozen UNet, or the whole UNet. Either way: named fp32 parameters.

Knows nothing about losses, checkpoints or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contracts.train import TrainConfig
from sdxl.base import Base, load_base
from sdxl.lora import LoraBank, attach
from trainer.flat import FlatParameters

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Trainable:
    """The model in training."""

    base: Base
    """Holds the UNet that is called; its VAE and text encoders are not loaded."""
    bank: LoraBank | None
    parameters: FlatParameters
    peak_rates: Mapping[str, float]
    """Learning rate at its highest of each group of the parameters."""
    compute: Callable[[], AbstractContextManager[Any]]
    """Enter it around every call of the UNet."""

    def state(self) -> dict[str, torch.Tensor]:
        """The trained tensors by the names they are saved under (views of the live ones)."""
        return self.parameters.split(self.parameters.vector.data)


def load_trainable(path: Path, config: TrainConfig, device: torch.device) -> Trainable:
    """Load the UNet and make it trainable as ``config`` says."""
    compute_dtype = DTYPES[config.precision]
    full = config.method == "full"
    rates = {"unet": config.optimizer.learning_rate}
    # The parameters of a full fine-tune are its master weights.
    in_bf16 = full and config.full.master_weights == "bf16-stochastic"
    dtype = torch.float32 if full and not in_bf16 else compute_dtype
    base = load_base(path, dtype=dtype, device=device, components={"unet"})
    unet = base.unet
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if full:
        unet.requires_grad_(True)
        # Autocast computes with copies of them in the type that is computed with.
        cast = compute_dtype is not dtype
        named: dict[str, nn.Parameter] = dict(unet.named_parameters())
        parameters = FlatParameters({"unet": named}, gradient=not config.full.fused_backward)
        return Trainable(
            base, None, parameters, rates, lambda: torch.autocast(device.type, compute_dtype) if cast else nullcontext()
        )
    lora = config.lora
    bank = attach(unet, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=config.seed, dropout=lora.dropout)
    named = dict(zip(bank.state_dict(), bank.parameters(), strict=True))
    return Trainable(base, bank, FlatParameters({"unet": named}), rates, nullcontext)
