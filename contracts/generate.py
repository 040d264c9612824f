"""What to generate: the request the API accepts, the database keeps and the engine runs."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from contracts.config import Frozen
from contracts.failures import NAME_PATTERN

MAX_SEED = 2**32 - 1
WEIGHTS_PATTERN = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9._-]{0,63})(@(?P<alias>[A-Za-z0-9._-]{1,64}))?(:(?P<scale>-?[0-9.]+))?$"
)


class GenerationStatus(StrEnum):
    """Where a generation is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WeightsChoice(Frozen):
    """Registered weights and how strongly they act."""

    weights: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}(@[A-Za-z0-9._-]{1,64})?$")]
    """``name``, ``name@alias`` or ``name@version``; without an alias it is ``@latest``."""

    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0
    """Multiplies the update; 0 is the base, 1 is as trained; of a full fine-tune only 1."""


class GenerationRequest(Frozen):
    """One prompt, one or more pictures."""

    prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    """What to draw; include the trigger word of the weights."""

    negative_prompt: Annotated[str, Field(max_length=2000)] = ""
    """What to steer away from."""

    base: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    """Name of the base; null is the base the weights belong to, or the only one there is."""

    weights: Annotated[tuple[WeightsChoice, ...], Field(max_length=4)] = ()
    """LoRAs added to the base, whose updates add up; a full fine-tune takes the base's place."""

    width: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] | None = None
    """Pixels; null is the base's native size."""

    height: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] | None = None
    """Pixels; null is the base's native size."""

    steps: Annotated[int, Field(ge=1, le=150)] = 25
    """Denoising steps."""

    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 5.0
    """Classifier-free guidance; 1 or less turns it off."""

    images: Annotated[int, Field(ge=1, le=16)] = 1
    """How many pictures; picture k takes seed + k."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """Seed of the first picture; null draws one, and the answer tells it."""


def parse_weights_choice(text: str) -> WeightsChoice:
    """Read the command line's ``name@alias:0.8``.

    Raises:
        ValueError: the text is not of that form.
    """
    match = WEIGHTS_PATTERN.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not NAME, NAME@ALIAS, NAME:SCALE or NAME@ALIAS:SCALE, as in `style@latest:0.8`")
    alias = f"@{match['alias']}" if match["alias"] else ""
    return WeightsChoice(weights=match["name"] + alias, scale=float(match["scale"] or 1.0))
