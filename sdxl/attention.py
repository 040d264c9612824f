"""Attention over few positions as it is cheapest to train on a processor; the formula is diffusers' own.

In half precision torch's backward pass there, in blocks made for many positions, takes four times its forward pass;
one of whole matrices takes half of that. Knows nothing about adapters or where in a UNet it is.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

VERSION = 1
"""Of the arithmetic: a run that another one began goes on with other bits."""
FEW = 256 * 256
"""Pairs of positions up to which it is faster; at 1 024 x 77 it no longer is (docs/log.md, 2026-11-27)."""


def use_in(unet: Any) -> None:
    """Let every attention of a diffusers UNet go back in this way; what goes forward stays bit for bit the same."""
    for module in unet.modules():
        if hasattr(module, "set_processor") and _is_plain(module):
            module.set_processor(Processor(module.processor))


class Processor:
    """What diffusers calls instead of its ``usual`` one, which does what is rarer."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if attention_mask is not None:
            return cast(torch.Tensor, self._usual(attn, hidden_states, encoder_hidden_states, attention_mask))
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen))
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in projected)
        attended = attend(query, key, value).transpose(1, 2).flatten(2)
        return cast(torch.Tensor, attn.to_out[1](attn.to_out[0](attended)))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ / √d) v of [N, heads, positions, d]: Vaswani et al. 2017 (arXiv:1706.03762), equation 1."""
    few = query.shape[2] * key.shape[2] <= FEW
    if few and query.dtype is torch.bfloat16 and query.device.type == "cpu":
        return cast(torch.Tensor, _OfFew.apply(query, key, value))
    return F.scaled_dot_product_attention(query, key, value)


class _OfFew(torch.autograd.Function):
    """Forward as ever; backward with p = softmax(q kᵀ / √d) made anew, in fp32 wherever it is no product's input."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        return F.scaled_dot_product_attention(query, key, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        saved = ctx.saved_tensors  # asked for once: gradient checkpointing makes them anew, and gives them once
        # Picture by picture, so that no more than one's matrices are there beside what is planned.
        pictures = [_back(*one) for one in zip(*saved, grad, strict=True)]
        return tuple(torch.stack(grads) for grads in zip(*pictures, strict=True))


def _back(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of one picture's query, key and value, [heads, positions, d] each."""
    q, k, v, g = (tensor.contiguous() for tensor in (query, key, value, grad))
    scale = q.shape[-1] ** -0.5
    p = torch.softmax(q.float().mul_(scale) @ k.float().mT, -1)
    grad_v = p.to(v.dtype).mT @ g
    back = (g @ v.mT).float().mul_(p)
    # The softmax's own gradient: p (g vᵀ - Σ p g vᵀ), times the scale that comes before it.
    grad_scores = back.sub_(p * back.sum(-1, keepdim=True)).mul_(scale).to(q.dtype)
    return grad_scores @ k, grad_scores.mT @ q, grad_v


def _is_plain(attn: Any) -> bool:
    """Whether projections and the formula are all that diffusers would compute."""
    norms = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k)
    plain = all(norm is None for norm in norms) and not attn.norm_cross and not attn.residual_connection
    return plain and attn.rescale_output_factor == 1
