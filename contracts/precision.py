"""In which types a run computes and keeps its weights, and what the ways of saving memory rule out.

Knows nothing about torch, nor about how any of it is done.
"""

from __future__ import annotations

from typing import Literal

from contracts.config import Frozen
from contracts.failures import FieldError

Precision = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["nf4", "int8"]


class FullSettings(Frozen):
    """How a full fine-tune keeps and updates its weights."""

    master_weights: Literal["fp32", "bf16-stochastic"] = "fp32"
    """fp32, or half the memory: bf16, updates rounded by chance (Zamirai et al. 2020, arXiv:2010.06192)."""

    fused_backward: bool = False
    """Update each parameter in the backward pass and free its gradient at once: no more than one is ever held."""


def contradictions(
    *,
    method: str,
    precision: Precision,
    quantize: Quantization | None,
    full: FullSettings,
    accumulates: bool,
    clips: bool,
) -> list[FieldError]:
    """Which of these settings exclude each other, and why.

    Args:
        accumulates: a step has several backward passes.
        clips: gradients are scaled to a common norm.
    """
    wrong: dict[str, str] = {}
    if method != "full" and full != FullSettings():
        wrong["/full"] = "belongs to method full; adapters are small and always kept in fp32"
    if method == "full" and quantize is not None:
        wrong["/quantize"] = "must be null with method full: weights that are trained cannot be kept in a few bits"
    if full.master_weights == "bf16-stochastic":
        if precision != "bf16":
            wrong["/precision"] = "must be bf16 where the weights are (full.master_weights)"
        if accumulates:
            wrong["/gradient_accumulation_steps"] = (
                "must be 1 with bf16 weights: sums of bf16 gradients lose their ends"
            )
    if full.fused_backward:
        if accumulates:
            wrong["/gradient_accumulation_steps"] = (
                "must be 1 with full.fused_backward, which keeps no gradient to add to"
            )
        if clips:
            wrong["/optimizer/max_grad_norm"] = (
                "must be null with full.fused_backward: a common norm needs all gradients"
            )
        if precision == "fp16":
            wrong["/precision"] = "must not be fp16 with full.fused_backward: overflows are known when all is updated"
    return [FieldError(pointer=pointer, message=message) for pointer, message in wrong.items()]
