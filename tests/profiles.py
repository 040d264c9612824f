"""A base's profile of a few small numbers, for tests that need one and do not care."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import pytest

from contracts.base import AUTOCAST, FULL, WAYS, BaseDescription, BaseProfile, Family, StepFootprints, TargetSet
from contracts.footprint import Footprint, Moment
from contracts.lora import TEXT_ENCODERS


def small_profile(unet_parameters: int = 1_000_000) -> BaseProfile:
    """Six layers in two target sets, and footprints that grow with the images alone."""
    steps = StepFootprints(plain=footprint(1_000_000), checkpointed=footprint(100_000))
    return BaseProfile(
        unet_parameters=unet_parameters,
        unet_largest=unet_parameters // 10,
        packed_weights=unet_parameters // 2,
        packed_rows=1_000,
        packed_largest=unet_parameters // 20,
        unet_rows_and_columns=5_000,
        text_encoder_parameters=10_000,
        text_trained={"text_encoder": 2_000, "text_encoder_2": 7_000},
        text_largest={"text_encoder": 1_000, "text_encoder_2": 6_000},
        text_rows_and_columns={"text_encoder": 200, "text_encoder_2": 700},
        text_features=1_000,
        vae_parameters=10_000,
        modules={
            "attn": {f"blocks.{n}.attn1.to_q": (50, 50) for n in range(4)},
            "attn-ff": {f"blocks.{n}.proj_in": (100, 100) for n in range(2)},
        },
        text_modules={name: {"layers.0.self_attn.q_proj": (30, 20)} for name in TEXT_ENCODERS},
        text_steps={f"{name}{way}": footprint(40_000) for name in TEXT_ENCODERS for way in WAYS},
        full_text_steps=dict.fromkeys(TEXT_ENCODERS, footprint(60_000)),
        steps={f"{targets}{way}": steps for targets in get_args(TargetSet) for way in WAYS}
        | {FULL: steps, f"{FULL}{AUTOCAST}": steps},
        sampling=footprint(50_000),
        vae_encoding=footprint(20_000),
        vae_decoding=footprint(30_000),
    )


def small_base() -> BaseDescription:
    """A base of that profile, at SDXL's own size."""
    return BaseDescription(
        family=Family.SDXL,
        identity="a" * 64,
        vae_identity="b" * 64,
        native_px=1024,
        prediction_type="epsilon",
        latent_channels=4,
        vae_factor=8,
        profile=small_profile(),
    )


@contextmanager
def few_traces(adapted: tuple[tuple[TargetSet, str], ...]) -> Iterator[None]:
    """Traces made meanwhile have these ways of training adapters alone: all of them take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdxl.profile.ADAPTED", adapted)
        patch.setattr("sdxl.profile.WAYS", tuple(dict.fromkeys(way for _, way in adapted)))
        yield


def footprint(numbers_an_image: float) -> Footprint:
    return Footprint(moments=(Moment(numbers=(0, 0, numbers_an_image, 0, 0, 0), bytes=(0,) * 6),))
