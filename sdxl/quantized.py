"""A frozen Linear whose weight is kept in 4 or 8 bits, as QLoRA does: Dettmers et al. 2023 (arXiv:2305.14314).

nf4 in blocks of 64 with scales that are quantised themselves, or int8 with a scale a row (LLM.int8, arXiv:2208.07339,
without its outliers: activations stay as they are). The numbers are made anew at each use, one layer at a time. Knows
nothing about adapters or files.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from contracts.precision import Quantization
from sdxl.stock import bitsandbytes

BLOCK = 64
"""Elements of nf4 that share a scale; what the paper found no worse than smaller ones."""


class QuantizedLinear(nn.Linear):
    """Made of a weight that is not kept. Its bias, if any, is as it was.

    Args:
        weight: [out, in], on the device it is for; at least half precision.
        kind: how it is kept.
        dtype: the type of ``weight`` as it is given back, and of the products.
        bias: whether there is one; it is on the meta device until it is loaded.
    """

    packed: torch.Tensor

    def __init__(self, weight: torch.Tensor, kind: Quantization, *, dtype: torch.dtype, bias: bool) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.kind, self.dtype = kind, dtype
        if kind == "nf4":
            packed, self._scales = bitsandbytes("functional").quantize_4bit(
                weight.to(dtype), blocksize=BLOCK, quant_type="nf4", compress_statistics=True
            )
        else:
            packed, self._scales, _ = bitsandbytes("functional").int8_vectorwise_quant(weight.to(torch.float16))
        self.register_buffer("packed", packed, persistent=False)
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_features, device="meta")) if bias else None)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # it has none to set
        """[out, in] in ``dtype``: a new tensor each time."""
        if self.kind == "nf4":
            return cast(torch.Tensor, bitsandbytes("functional").dequantize_4bit(self.packed, self._scales))
        return cast(torch.Tensor, bitsandbytes("functional").int8_vectorwise_dequant(self.packed, self._scales)).to(
            self.dtype
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _Product.apply(x, self))


class _Product(torch.autograd.Function):
    """W x + b, and back to x, each with a W that is gone afterwards: autograd's own would keep every one of them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantizedLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        return (grad @ ctx.layer.weight if ctx.needs_input_grad[0] else None), None


def quantizable(unet: nn.Module) -> frozenset[str]:
    """The layers that are kept in fewer bits: every Linear of the transformers, in which nearly all weights are.

    The embeddings of time and size stay as they are: they are small, and all of a picture depends on them.
    """
    return frozenset(
        name for name, module in unet.named_modules() if isinstance(module, nn.Linear) and ".attentions." in f".{name}"
    )
