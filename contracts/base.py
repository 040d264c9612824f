"""A base model: what family it is of, and the identity weights are registered against.

Knows nothing about files or tensors: sdxl/base.py hashes tensors and calls ``base_identity``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal, NamedTuple

from contracts.config import Frozen, canonical_json

PredictionType = Literal["epsilon", "v_prediction"]
TargetSet = Literal["attn", "attn-ff", "attn-ff-conv"]
"""Which UNet layers a LoRA adapts: attention projections; those with feed-forward and proj_in/out (kohya's 722 modules
at full size); or those with the convolutions and time projections of resnets and samplers (LoCon, 788)."""


class Family(StrEnum):
    """Model families Patina can train and serve."""

    SDXL = "sdxl"


class TensorEntry(NamedTuple):
    """One tensor of a base: diffusers key with its component in front, shape, sha256 of its fp16 bytes."""

    key: str
    shape: tuple[int, ...]
    sha256: str


class Activations(Frozen):
    """Bytes a training step keeps for the backward pass, traced for one image at one size."""

    width_px: int
    height_px: int
    bytes_plain: int
    bytes_checkpointed: int


class BaseProfile(Frozen):
    """What planning needs to know of a base, traced once when it is added; sizes in elements or bytes."""

    unet_parameters: int
    text_encoder_parameters: int
    vae_parameters: int
    adapted_features: dict[TargetSet, int]
    """Sum over the set's modules of LoRA parameters per unit of rank: one A's row and one number for each output."""
    adapted_modules: dict[TargetSet, int]
    activations: tuple[Activations, ...]


class BaseDescription(Frozen):
    """Everything the catalog stores about a base; made by sdxl.base.describe."""

    family: Family
    identity: str
    """sha256 over UNet and text encoders; a folder and a single file of the same weights agree."""
    vae_identity: str
    native_px: int
    prediction_type: PredictionType
    latent_channels: int
    vae_factor: int
    profile: BaseProfile


def base_identity(entries: Iterable[TensorEntry]) -> str:
    """sha256 over the sorted list of (key, shape, tensor hash), 64 hex characters."""
    listed = sorted([entry.key, list(entry.shape), entry.sha256] for entry in entries)
    return hashlib.sha256(canonical_json(listed).encode()).hexdigest()
