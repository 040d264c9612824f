"""What planning needs to know of a base, traced on fake tensors: counts, and the bytes a step keeps.

No weight is read and no memory taken: a full-size UNet is traced in seconds. Knows nothing about devices;
what a particular GPU's kernels keep beyond this is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from contracts.base import Activations, BaseProfile, TargetSet
from sdxl import files as base_files
from sdxl.files import BaseFiles
from sdxl.lora import attach, target_modules
from sdxl.networks import native_px, unet_from_config, vae_factor

TARGET_SETS: tuple[TargetSet, ...] = ("attn", "attn-ff", "attn-ff-conv")
TRACED_RANK = 16
CHECKPOINTED = ("ResnetBlock2D", "BasicTransformerBlock")
"""The modules diffusers recomputes when gradient checkpointing is on."""
TOKENS = 77


def trace_profile(files: BaseFiles) -> BaseProfile:
    """Count parameters and trace a training step at the base's native size and at half of it."""
    sizes = {component: base_files.shapes(files, component) for component in base_files.COMPONENTS}
    counts = {name: sum(math.prod(shape) for shape in shapes.values()) for name, shapes in sizes.items()}
    config = base_files.config(files, "unet")
    with FakeTensorMode():
        unet = unet_from_config(config)
        adapted = {targets: list(target_modules(unet, targets).values()) for targets in TARGET_SETS}
        attach(unet, rank=TRACED_RANK, alpha=TRACED_RANK, targets="attn-ff", seed=0)
        native = native_px(files)
        activations = tuple(_trace(unet, config, px, vae_factor(files)) for px in (native, native // 2))
    return BaseProfile(
        unet_parameters=counts["unet"],
        text_encoder_parameters=counts["text_encoder"] + counts["text_encoder_2"],
        vae_parameters=counts["vae"],
        adapted_features={t: sum(_per_rank(m) for m in found) for t, found in adapted.items()},
        adapted_modules={t: len(found) for t, found in adapted.items()},
        activations=activations,
    )


def _per_rank(module: nn.Linear | nn.Conv2d) -> int:
    """Parameters of a LoRA of rank 1: an A like one row of the weight, and a number for each output."""
    return module.weight[0].numel() + len(module.weight)


def _trace(unet: nn.Module, config: dict[str, Any], px: int, factor: int) -> Activations:
    """Bytes one fp32 picture's forward pass keeps for the backward pass, with the larger target set adapted.

    With checkpointing a recomputed block keeps its inputs only, and the largest one is whole at a time.
    """
    tally = _Tally(unet)
    side = px // factor
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    with tally.watching():
        unet(
            torch.empty(1, config["in_channels"], side, side),
            torch.zeros(1),
            torch.empty(1, TOKENS, config["cross_attention_dim"]),
            added_cond_kwargs={"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)},
        )
    inside = sum(tally.block_bytes)
    checkpointed = tally.kept_bytes - inside + tally.input_bytes + max(tally.block_bytes, default=0)
    return Activations(
        width_px=px, height_px=px, bytes_plain=tally.kept_bytes, bytes_checkpointed=min(checkpointed, tally.kept_bytes)
    )


class _Tally:
    """Counts the storages autograd saves, each once and no parameter, in all and inside recomputed blocks."""

    def __init__(self, unet: nn.Module) -> None:
        self.kept_bytes = 0
        self.input_bytes = 0
        self.block_bytes: list[int] = []
        self._unet = unet
        self._ignored = {_storage(p) for p in unet.parameters()}
        self._kept: set[int] = set()
        self._inputs: set[int] = set()
        self._alive: list[torch.Tensor] = []
        """Keeps storages from being freed and their addresses reused while counting."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = []
        for module in self._unet.modules():
            if type(module).__name__ in CHECKPOINTED:
                hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                hooks.append(module.register_forward_hook(self._leave))
        try:
            with saved_tensors_hooks(self._pack, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage(tensor)
        if storage not in self._ignored and storage not in self._kept:
            self._kept.add(storage)
            self._alive.append(tensor.detach())
            self.kept_bytes += tensor.untyped_storage().nbytes()
        return tensor

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor) and _storage(value) not in self._inputs:
                self._inputs.add(_storage(value))
                self._alive.append(value.detach())
                self.input_bytes += value.untyped_storage().nbytes()
        self.block_bytes.append(-self.kept_bytes)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.block_bytes[-1] += self.kept_bytes


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
