"""Weight-decomposed LoRA (Liu et al. 2024, arXiv:2402.09353): W' = m (W + s B A) / ‖W + s B A‖, row by row.

As there (section 4.3), the norm follows the update but has no gradient. Knows nothing about layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class Magnitude:
    """m of a trained adapter on one layer, in fp32."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self._grown: torch.Tensor | None = None

    def over(self, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """m / ‖W + B A‖ [out], computed once for the base that is there."""
        if self._grown is None:
            self._grown = self.values / row_norms(weight, down, up, 1.0)
        return self._grown

    def forget_base(self) -> None:
        """The base's weights are others now."""
        self._grown = None


@torch.no_grad()
def squared_row_norms(weight: torch.Tensor) -> torch.Tensor:
    """Of each output's weights, in fp32: [out]."""
    return weight.flatten(1).float().square().sum(1)


@torch.no_grad()
def row_norms(
    weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float, squared: torch.Tensor | None = None
) -> torch.Tensor:
    """‖W + s B A‖ of each output [out] in fp32, multiplied out so that B A is never made.

    ‖w + s b A‖² = ‖w‖² + 2 s b · (A w) + s² b · (A Aᵀ b) for a row w of W and b of B.

    Args:
        squared: ``squared_row_norms(weight)`` where it is known.
    """
    rows, narrow, wide = weight.flatten(1).float(), up.flatten(1).float(), down.flatten(1).float()
    base = squared_row_norms(weight) if squared is None else squared
    cross = ((rows @ wide.T) * narrow).sum(1)
    own = ((narrow @ (wide @ wide.T)) * narrow).sum(1)
    return (base + 2 * scale * cross + scale**2 * own).clamp_min(0).sqrt()


class DoraLinear(torch.autograd.Function):
    """g (W x + s B A x) + b of a Linear, g [out] being m over the norm; written out as the plain LoRA's is.

    g is near 1 and comes as g - 1: bf16 knows no number between 1 and 1.0078.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layer: nn.Linear,
        down: torch.Tensor,
        up: torch.Tensor,
        gain: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ down.T
        turned = flat @ layer.weight.T
        turned.addmm_(inner, up.T, alpha=scale)
        out = torch.addcmul(turned, turned, gain)
        if layer.bias is not None:
            out.add_(layer.bias)
        ctx.save_for_backward(flat, down, up, gain, inner, turned)
        ctx.layer = layer
        ctx.scale = scale
        ctx.shape = x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, down, up, gain, inner, turned = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_gain = (grad * turned).sum(0)
        grad = torch.addcmul(grad, grad, gain)
        back = (grad @ up).mul_(ctx.scale)
        grad_x = (grad @ ctx.layer.weight).addmm_(back, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, back.T @ flat, (grad.T @ inner).mul_(ctx.scale), grad_gain, None
