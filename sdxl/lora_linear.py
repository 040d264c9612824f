"""The arithmetic of a LoRA on a Linear: W x + b + s B A x and its gradients. Knows nothing about which layer it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Adapted(torch.autograd.Function):
    """W x + b + s B A x with the two products added in place, and the same backwards.

    Written out because autograd's own version makes four more passes over activations: s times, plus,
    and their like backwards. Nothing is computed for the frozen W and b. W is asked of its layer anew for the backward
    pass: a quantised one makes it each time, and none of them is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layer: nn.Linear,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ down.T
        out = F.linear(flat, layer.weight, layer.bias)
        out.addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(flat, down, up, inner)
        ctx.layer = layer
        ctx.scale = scale
        ctx.shape = x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, down, up, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        back = (grad @ up).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ ctx.layer.weight).addmm_(back, down).view(ctx.shape)
        grad_down = back.T @ flat if ctx.needs_input_grad[2] else None
        grad_up = (grad.T @ inner).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
        return grad_x, None, grad_down, grad_up, None


def add_each_its_own(x: torch.Tensor, out: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> None:
    """Add to ``out`` [N, ..., out], in place, sample n's B_n A_n x_n; down [N, R, in], up [N, out, R]."""
    samples = len(x)
    inner = torch.bmm(x.reshape(samples, -1, x.shape[-1]), down.mT)
    out.view(samples, -1, out.shape[-1]).baddbmm_(inner, up.mT)
