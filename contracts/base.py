"""A base model: what family it is of, and the identity weights are registered against.

Knows nothing about files or tensors: sdxl/base.py hashes tensors and calls ``base_identity``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal, NamedTuple, get_args

from contracts.config import Frozen, canonical_json
from contracts.footprint import Footprint

PredictionType = Literal["epsilon", "v_prediction"]
TargetSet = Literal["attn", "attn-ff", "attn-ff-conv"]
"""Which UNet layers a LoRA adapts: attention projections; those with feed-forward and proj_in/out (kohya's 722 modules
at full size); or those with the convolutions and time projections of resnets and samplers (LoCon, 788). Each set holds
those before it."""


class Family(StrEnum):
    """Model families Patina can train and serve."""

    SDXL = "sdxl"


class Denoising(NamedTuple):
    """What a UNet predicts, and on which noise schedule: pictures must be sampled as it was trained."""

    predicts: PredictionType
    from_pure_noise: bool = False
    """Whether the schedule ends in pure noise (zero terminal SNR)."""

    def __str__(self) -> str:
        what = "the noise" if self.predicts == "epsilon" else "v"
        return f"{what}, from {'pure' if self.from_pure_noise else 'nearly pure'} noise"


class TensorEntry(NamedTuple):
    """One tensor of a base: diffusers key with its component in front, shape, sha256 of its fp16 bytes."""

    key: str
    shape: tuple[int, ...]
    sha256: str


FULL, AUTOCAST = "full", "+autocast"
"""Training the whole UNet, and doing so in fp32 while autocast computes in another type."""
DORA, DROPOUT = "+dora", "+dropout"
WAYS = ("", DORA, DROPOUT, DORA + DROPOUT)
"""Of training adapters: what is kept of a step differs."""


class StepFootprints(Frozen):
    """What a training step has alive beyond weights, gradients and optimiser."""

    plain: Footprint
    checkpointed: Footprint


class BaseProfile(Frozen):
    """What planning needs to know of a base, traced once for its shape; see sdxl/profile.py."""

    unet_parameters: int
    unet_largest: int
    """Numbers of its largest parameter."""
    packed_weights: int
    """Of the UNet's parameters, those that quantising packs."""
    packed_rows: int
    """Outputs of the layers they are of, all together."""
    packed_largest: int
    """Numbers of the largest of these layers' weights, which are made dense one at a time."""
    unet_rows_and_columns: int
    """Of all its matrices together, a kernel counting as [out, in x k x k], and the elements of what is no matrix."""
    text_encoder_parameters: int
    """Of both."""
    text_trained: dict[str, int]
    """Of each, those that training it whole changes: SDXL reads CLIP-L before its last layer."""
    text_largest: dict[str, int]
    """Numbers of the largest parameter of each, the embedding of the tokens."""
    text_rows_and_columns: dict[str, int]
    """Of these, as of the UNet."""
    text_features: int
    """Numbers of an encoded caption of one chunk."""
    vae_parameters: int
    modules: dict[TargetSet, dict[str, tuple[int, int]]]
    """Layers a target set adds to the smaller ones: name -> (inputs, outputs), so rank x their sum parameters."""
    text_modules: dict[str, dict[str, tuple[int, int]]]
    """The same of each text encoder, by diffusers' names of them."""
    steps: dict[str, StepFootprints]
    """Of training adapters on a target set in one of ``WAYS``, such as attn-ff+dora, or the whole UNet."""
    text_steps: dict[str, Footprint]
    """Of training adapters on a text encoder in one of ``WAYS``: what is kept of a caption for each image until the
    backward pass."""
    full_text_steps: dict[str, Footprint]
    """The same of training the whole encoder."""
    sampling: Footprint
    """Of a UNet's forward pass of which nothing is kept."""
    vae_encoding: Footprint
    vae_decoding: Footprint

    def adapted(self, targets: TargetSet) -> dict[str, tuple[int, int]]:
        """The layers of a target set: name -> (inputs, outputs)."""
        found: dict[str, tuple[int, int]] = {}
        for one in get_args(TargetSet):
            found |= self.modules.get(one, {})
            if one == targets:
                break
        return found


class BaseDescription(Frozen):
    """Everything the catalog stores about a base; made by sdxl.base.describe."""

    family: Family
    identity: str
    """sha256 over UNet and text encoders; a folder and a single file of the same weights agree."""
    vae_identity: str
    native_px: int
    prediction_type: PredictionType
    zero_terminal_snr: bool = False
    """Whether its noise schedule ends in pure noise; bases that were added before this was looked at say False."""
    latent_channels: int
    vae_factor: int
    profile: BaseProfile

    @property
    def denoising(self) -> Denoising:
        """How it denoises by itself."""
        return Denoising(self.prediction_type, self.zero_terminal_snr)


def base_identity(entries: Iterable[TensorEntry]) -> str:
    """sha256 over the sorted list of (key, shape, tensor hash), 64 hex characters."""
    listed = sorted([entry.key, list(entry.shape), entry.sha256] for entry in entries)
    return hashlib.sha256(canonical_json(listed).encode()).hexdigest()
