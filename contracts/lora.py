"""Which layers of a network a LoRA adapts, and the rank and scale of each: arithmetic over names, for all alike.

Names are PEFT's: of the UNet as diffusers has them, of a text encoder with ``text_model.`` in front. Knows nothing
about tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from contracts.base import TargetSet
from contracts.config import Frozen
from contracts.failures import FieldError, pointer_to

Rank = Annotated[int, Field(ge=1, le=256)]
Alpha = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0, le=4)]
LayerGlob = Annotated[str, Field(min_length=1, max_length=200)]
MOST_PATTERNS = 64
PATTERNS = ("rank_pattern", "alpha_pattern", "strength_pattern")
MISSPELT_HINT = (
    "Layers are named as diffusers does: down_blocks.1.resnets.0.conv1. Only those of lora.targets and of trained text "
    "encoders are adapted; lora.alpha_pattern={} leaves out the alphas of a recipe, and so on."
)
PublishedDialect = Literal["kohya", "diffusers"]
"""What one file can have; PEFT's is a folder."""

UNET = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""CLIP-L and OpenCLIP bigG, as diffusers names the components."""

_ATTENTION = r"\.attn[12]\.to_(q|k|v|out\.0)"
_FEED_FORWARD = r"\.(ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"
_CONVOLUTION = r"\.(resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.\d+\.conv)"
_UNET_LAYERS: dict[TargetSet, re.Pattern[str]] = {
    "attn": re.compile(f"(?:{_ATTENTION})$"),
    "attn-ff": re.compile(f"(?:{_ATTENTION}|{_FEED_FORWARD})$"),
    "attn-ff-conv": re.compile(f"(?:{_ATTENTION}|{_FEED_FORWARD}|{_CONVOLUTION})$"),
}
_TEXT_LAYER = re.compile(r"\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$")

Value = TypeVar("Value", int, float)


@dataclass(frozen=True)
class Adaptation:
    """How one component is adapted."""

    rank: int
    alpha: float
    targets: TargetSet | None = None
    """Of the UNet; a text encoder has one set, its attention projections and both layers of its MLPs."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    dropout: float = 0.0

    def adapts(self, name: str) -> bool:
        """Whether a layer of this name gets an adapter."""
        return bool((_TEXT_LAYER if self.targets is None else _UNET_LAYERS[self.targets]).search(name))

    def rank_of(self, name: str) -> int:
        """Width of a layer's update."""
        return by_pattern(self.rank_pattern, name, self.rank)

    def alpha_of(self, name: str) -> float:
        """The alpha by which a layer's update is alpha / rank · B A, as every file format has it.

        rsLoRA divides by the root of the rank instead (Kalajdzievski 2023, arXiv:2312.03732); so its alpha here is
        that many times larger.
        """
        alpha = by_pattern(self.alpha_pattern, name, self.alpha)
        return alpha * self.rank_of(name) ** 0.5 if self.rslora else alpha


class TextEncoderSettings(Frozen):
    """A low-rank adapter on a text encoder: on its attention projections and both layers of its MLPs."""

    rank: Rank = 8
    """Width of the low-rank update."""

    alpha: Alpha = 8.0
    """The update is scaled by alpha / rank."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate of this encoder; null is the optimiser's."""


class LoraSettings(Frozen):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the UNet and, opted in, on the text encoders."""

    rank: Rank = 16
    """Width of the low-rank update; more rank, more capacity and a larger file."""

    alpha: Alpha = 16.0
    """The update is scaled by alpha / rank."""

    targets: TargetSet = "attn-ff"
    """attn: attention projections. attn-ff: feed-forward and the transformers' in and out projections too.
    attn-ff-conv: also the convolutions and time projections of resnets and samplers (LoCon)."""

    rank_pattern: dict[LayerGlob, Rank] = Field(default_factory=dict, max_length=MOST_PATTERNS)
    """Other ranks for layers whose names fit a glob, such as {"*.resnets.*": 8}; the longest one that fits counts."""

    alpha_pattern: dict[LayerGlob, Alpha] = Field(default_factory=dict, max_length=MOST_PATTERNS)
    """Other alphas for the layers whose names fit a glob; the longest one that fits counts."""

    strength_pattern: dict[LayerGlob, Strength] = Field(default_factory=dict, max_length=MOST_PATTERNS)
    """How strongly layers act in previews, held-out losses and the file, from 0 to 4 times what was trained, such as
    {"up_blocks.*attn*": 0.5}; 1 for layers that no glob fits, the longest one that fits counts. A run that starts from
    such a file goes on from what was trained, before its own strengths."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs zeroed while training."""

    rslora: bool = False
    """Divide alpha by the root of the rank instead of the rank (Kalajdzievski 2023, arXiv:2312.03732)."""

    dora: bool = False
    """Learn each output's magnitude apart from its direction (Liu et al. 2024, arXiv:2402.09353): slower, often better
    at low ranks."""

    text_encoder: TextEncoderSettings | None = None
    """Train CLIP-L too, such as {"rank": 8}; captions are then encoded in every step, and none is cached."""

    text_encoder_2: TextEncoderSettings | None = None
    """Train OpenCLIP bigG too; captions are then encoded in every step, and none is cached."""

    @model_validator(mode="after")
    def _strengths_of_a_plain_adapter(self) -> Self:
        if self.dora and self.strength_pattern:
            raise ValueError("strength_pattern scales low-rank updates; leave it out with dora")
        return self

    @property
    def text_encoders(self) -> dict[str, TextEncoderSettings]:
        """Those that are trained, by diffusers' names of them."""
        both = zip(TEXT_ENCODERS, (self.text_encoder, self.text_encoder_2), strict=True)
        return {name: settings for name, settings in both if settings is not None}

    def adaptations(self) -> dict[str, Adaptation]:
        """How each component is adapted, by diffusers' names of them. Patterns, DoRA and the like hold for all."""
        unet = Adaptation(
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            rank_pattern=self.rank_pattern,
            alpha_pattern=self.alpha_pattern,
            rslora=self.rslora,
            dora=self.dora,
            dropout=self.dropout,
        )
        others = self.text_encoders.items()
        return {UNET: unet} | {n: replace(unet, rank=s.rank, alpha=s.alpha, targets=None) for n, s in others}

    def learning_rates(self, otherwise: float) -> dict[str, float]:
        """Peak learning rate of each component; ``otherwise`` is the optimiser's."""
        return {UNET: otherwise} | {name: s.learning_rate or otherwise for name, s in self.text_encoders.items()}


def by_pattern(patterns: Mapping[str, Value], name: str, otherwise: Value) -> Value:
    """The value of the longest glob that fits a name, so that their order says nothing."""
    fitting = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
    return patterns[max(fitting, key=lambda pattern: (len(pattern), pattern))] if fitting else otherwise


def misspelt(lora: LoraSettings, names: Iterable[str]) -> list[FieldError]:
    """Patterns of ranks, alphas and strengths that fit none of these names of adapted layers."""
    known = list(names)
    patterns = [(field, one) for field in PATTERNS for one in getattr(lora, field)]
    return [
        FieldError(pointer=pointer_to(["lora", field, one]), message=f"fits none of the {len(known)} adapted layers")
        for field, one in patterns
        if not any(fnmatchcase(name, one) for name in known)
    ]
