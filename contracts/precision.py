"""In which types a run computes and keeps its weights, and what the ways of saving memory rule out.

Knows nothing about torch, nor about how any of it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from contracts.config import Frozen
from contracts.lora import TEXT_ENCODERS, UNET
from contracts.mistakes import Contradiction

Precision = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["nf4", "int8"]

BYTES: Mapping[Precision, int] = MappingProxyType({"fp32": 4, "bf16": 2, "fp16": 2})
"""A number of each compute type."""
PACKED_BYTES: Mapping[Quantization, float] = MappingProxyType(
    # A scale in 8 bits for each 64 weights, and one in fp32 for each 256 of these: QLoRA, section 3.
    {"nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
)
"""Of a quantised weight."""
PACKED_ROW_BYTES: Mapping[Quantization, int] = MappingProxyType({"nf4": 0, "int8": 4})
"""Of each output besides: int8 has a scale in fp32."""


class FullTextSettings(Frozen):
    """A text encoder that a full fine-tune trains whole, beside the UNet."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate of this encoder; null is the optimiser's."""


class FullSettings(Frozen):
    """What a full fine-tune trains beside the UNet, and how it keeps and updates its weights."""

    text_encoder: FullTextSettings | None = None
    """Train CLIP-L too, such as {"learning_rate": 1.0e-6}; captions are then encoded in every step, none is cached."""

    text_encoder_2: FullTextSettings | None = None
    """Train OpenCLIP bigG too; captions are then encoded in every step, and none is cached."""

    master_weights: Literal["fp32", "bf16-stochastic"] = "fp32"
    """fp32, or half the memory: bf16, updates rounded by chance (Zamirai et al. 2020, arXiv:2010.06192)."""

    fused_backward: bool = False
    """Update each parameter in the backward pass and free its gradient at once: no more than one is ever held."""

    @property
    def adds_gradients(self) -> bool:
        """Whether those of several backward passes can be added up."""
        return not self.fused_backward and self.master_weights == "fp32"

    @property
    def text_encoders(self) -> dict[str, FullTextSettings]:
        """Those that are trained, by diffusers' names of them."""
        both = zip(TEXT_ENCODERS, (self.text_encoder, self.text_encoder_2), strict=True)
        return {name: settings for name, settings in both if settings is not None}

    def learning_rates(self, otherwise: float) -> dict[str, float]:
        """Peak learning rate of each component; ``otherwise`` is the optimiser's."""
        return {UNET: otherwise} | {name: s.learning_rate or otherwise for name, s in self.text_encoders.items()}


def not_taken(there: Iterable[str], trained: Sequence[str]) -> str | None:
    """Why a full fine-tune cannot start from weights with text encoders of their own; None: it trains all of these.

    Args:
        there: the components that the weights have.
    """
    more = sorted({*there} - {UNET, *trained})
    # Beside the base's own encoders their UNet would be asked for what it has not learned.
    return f"they have a {' and a '.join(more)} of their own: set full.{more[0]} to go on with it" if more else None


def contradictions(
    *,
    method: str,
    precision: Precision,
    quantize: Quantization | None,
    full: FullSettings,
    exports: bool,
    accumulates: bool,
    clips: bool,
) -> list[Contradiction]:
    """Which of these settings exclude each other, and why.

    Args:
        exports: something is said of how a full fine-tune is exported.
        accumulates: a step has several backward passes.
        clips: gradients are scaled to a common norm.
    """
    broken = []
    if method != "full" and full != FullSettings():
        message = "belongs to method full; adapters are small and always kept in fp32"
        broken.append(Contradiction("/full", message, ("/method",)))
    if method != "full" and exports:
        message = "belongs to method full; python -m sdxl.formats convert brings adapters into other forms"
        broken.append(Contradiction("/export", message, ("/method",)))
    if method == "full" and quantize is not None:
        message = "must be null with method full: weights that are trained cannot be kept in a few bits"
        broken.append(Contradiction("/quantize", message, ("/method",)))
    in_bf16, fused = full.master_weights == "bf16-stochastic", full.fused_backward
    if in_bf16 and precision != "bf16":
        message = "must be bf16 where the weights are (full.master_weights)"
        broken.append(Contradiction("/precision", message, ("/full/master_weights",)))
    elif fused and precision == "fp16":
        message = "must not be fp16 with full.fused_backward: overflows are known when all is updated"
        broken.append(Contradiction("/precision", message, ("/full/fused_backward",)))
    if fused and accumulates:
        message = "must be 1 with full.fused_backward, which keeps no gradient to add to"
        broken.append(Contradiction("/gradient_accumulation_steps", message, ("/full/fused_backward",)))
    elif in_bf16 and accumulates:
        message = "must be 1 with bf16 weights: sums of bf16 gradients lose their ends"
        broken.append(Contradiction("/gradient_accumulation_steps", message, ("/full/master_weights",)))
    if fused and clips:
        message = "must be null with full.fused_backward: a common norm needs all gradients"
        # The default is the kind's own.
        beside = ("/full/fused_backward", "/optimizer/kind")
        broken.append(Contradiction("/optimizer/max_grad_norm", message, beside))
    return broken
