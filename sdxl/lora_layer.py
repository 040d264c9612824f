"""One Linear with low-rank updates beside it (Hu et al. 2021, arXiv:2106.09685): y = W x + b + s B A x.

Knows nothing about names, files or which layers of a UNet are adapted; sdxl/lora.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Selection = Sequence[Mapping[str, float]]
"""For each sample of a batch, which adapters act on it and how strongly."""


class LoraLinear(nn.Module):
    """A frozen Linear, at most one adapter in training, and any number held for serving.

    What it does is chosen by one of ``use_base``, ``use_training``, ``use_same`` and ``use_mixed``.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.scaling = 1.0
        self.dropout = 0.0
        self.dropout_keys: tuple[int, ...] | None = None
        self.held: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        """Adapter -> (A, B with its alpha / rank folded in), in the base's dtype."""
        self._trains = False
        self._strength = 1.0
        self._stack: tuple[torch.Tensor, torch.Tensor] | None = None

    def add_training(self, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        """A trainable update in fp32, initialised as peft does: A as a Linear's weight, B zero."""
        weight = self.base.weight
        down = torch.empty(rank, weight.shape[1], dtype=torch.float32)
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
        self.lora_A = nn.Parameter(down.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], rank, dtype=torch.float32, device=weight.device))
        self.scaling, self.dropout = alpha / rank, dropout

    def use_base(self) -> None:
        self._trains, self._stack = False, None

    def use_training(self, strength: float = 1.0) -> None:
        self._trains, self._strength, self._stack = True, strength, None

    def use_same(self, choice: Mapping[str, float]) -> None:
        """The same adapters on every sample, whatever the batch's size."""
        self._trains = False
        parts = self._parts(choice)
        self._stack = None
        if parts:
            self._stack = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1)

    def use_mixed(self, choices: Selection) -> None:
        """Each sample its own adapters: [N, R, in] and [N, out, R], zero where a sample has less rank."""
        self._trains, self._stack = False, None
        parts = [self._parts(choice) for choice in choices]
        rank = max(sum(len(a) for a, _ in part) for part in parts)
        if rank == 0:
            return
        weight = self.base.weight
        down = weight.new_zeros(len(parts), rank, weight.shape[1])
        up = weight.new_zeros(len(parts), weight.shape[0], rank)
        for sample, part in enumerate(parts):
            start = 0
            for a, b in part:
                down[sample, start : start + len(a)] = a
                up[sample, :, start : start + len(a)] = b
                start += len(a)
        self._stack = down, up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.base.weight, self.base.bias
        if self._trains:
            assert self.lora_A is not None
            assert self.lora_B is not None
            down, up = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
            scale = self.scaling * self._strength
            if self.dropout and self.dropout_keys is not None:
                dropped = x * _dropout_mask(x, self.dropout, self.dropout_keys)
                return F.linear(x, weight, bias) + F.linear(F.linear(dropped, down), up) * scale
            result: torch.Tensor = _Adapted.apply(x, weight, bias, down, up, scale)
            return result
        if self._stack is None:
            return F.linear(x, weight, bias)
        down, up = self._stack
        if down.ndim == 2:
            same: torch.Tensor = _Adapted.apply(x, weight, bias, down, up, 1.0)
            return same
        return _mixed(x, F.linear(x, weight, bias), down, up)

    def _parts(self, choice: Mapping[str, float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(A, strength x B) of the chosen adapters that have weights for this layer."""
        parts = []
        for name, strength in choice.items():
            if name in self.held:
                down, up = self.held[name]
                parts.append((down, up * strength))
            elif name == TRAINING and self.lora_A is not None and self.lora_B is not None:
                kind = self.base.weight.dtype
                up = self.lora_B.detach() * (self.scaling * strength)
                parts.append((self.lora_A.detach().to(kind), up.to(kind)))
        return parts


TRAINING = "default"
"""Name of the adapter in training."""


class _Adapted(torch.autograd.Function):
    """W x + b + s B A x with the two products added in place, and the same backwards.

    Written out because autograd's own version makes four more passes over activations: s times, plus,
    and their like backwards. Nothing is computed for the frozen W and b.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ down.T
        out = F.linear(flat, weight, bias)
        out.addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(flat, weight, down, up, inner)
        ctx.scale = scale
        ctx.shape = x.shape
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, weight, down, up, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        back = (grad @ up).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(back, down).view(ctx.shape)
        grad_down = back.T @ flat if ctx.needs_input_grad[3] else None
        grad_up = (grad.T @ inner).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        return grad_x, None, None, grad_down, grad_up, None


def _mixed(x: torch.Tensor, out: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Add each sample's own update; a batch doubled for guidance holds the samples in the same order twice."""
    samples = len(down)
    if len(x) % samples:
        raise ValueError(f"a batch of {len(x)} cannot be shared by the {samples} samples selected")
    for start in range(0, len(x), samples):
        piece = x[start : start + samples].flatten(1, -2)
        part = out[start : start + samples].flatten(1, -2)
        part.baddbmm_(torch.bmm(piece, down.mT), up.mT)
    return out


def _dropout_mask(x: torch.Tensor, share: float, keys: Sequence[int]) -> torch.Tensor:
    """Inverted dropout from a key a sample: the same mask when a layer is recomputed, or in another batch."""
    if len(keys) != len(x):
        raise ValueError(f"{len(keys)} dropout keys for a batch of {len(x)}")
    mask = torch.empty_like(x)
    for row, key in zip(mask, keys, strict=True):
        row.bernoulli_(1 - share, generator=torch.Generator(device=x.device).manual_seed(key))
    return mask.div_(1 - share)
