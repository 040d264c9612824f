"""What the API answers about generations; what it takes is contracts.generate.GenerationRequest."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from api.schemas.common import Answer, Failure, failure, moment, moment_or_none
from catalog.generations.models import GenerationImage
from catalog.generations.service import GenerationView
from contracts.generate import GenerationRequest, GenerationStatus


class GenerationFailure(Failure):
    """Why a generation failed, and what to do about it."""

    reference: str | None
    """Finds the trace of an unexpected failure in the server's log."""


class GenerationBase(Answer):
    """The base it is generated on."""

    name: str
    identity: str


class GenerationWeights(Answer):
    """Which version a choice of the request meant when it was made."""

    id: str
    name: str
    version: int
    scale: float
    sha256: str


class ImageOut(Answer):
    """One picture."""

    sha256: str
    url: str
    seed: int
    width: int
    height: int
    bytes: int


class GenerationOut(Answer):
    """One request for pictures, and the pictures."""

    id: str
    status: GenerationStatus
    waiting_for: Literal["device"] | None
    """``device`` while training runs hold every device."""
    request: GenerationRequest
    """As asked, with base, size and seed filled in."""
    base: GenerationBase
    weights: list[GenerationWeights]
    images: list[ImageOut]
    seconds: float | None
    failure: GenerationFailure | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def generation_out(view: GenerationView) -> GenerationOut:
    """A catalog view as the API shows it."""
    row = view.generation
    told = failure(row.failure_code, row.failure_message, row.failure_hint)
    return GenerationOut(
        id=row.id,
        status=GenerationStatus(row.status),
        waiting_for="device" if view.waiting_for else None,
        request=GenerationRequest.model_validate(row.request),
        base=GenerationBase(name=row.base_name, identity=row.base_identity),
        weights=[GenerationWeights.model_validate(entry) for entry in row.weights],
        images=[_image(image) for image in view.images],
        seconds=row.seconds,
        failure=None if told is None else GenerationFailure(**told.model_dump(), reference=row.failure_reference),
        created_at=moment(row.created_at),
        started_at=moment_or_none(row.started_at),
        finished_at=moment_or_none(row.finished_at),
    )


def _image(image: GenerationImage) -> ImageOut:
    return ImageOut(
        sha256=image.sha256,
        url=f"/api/v1/images/{image.sha256}",
        seed=image.seed,
        width=image.width,
        height=image.height,
        bytes=image.bytes,
    )
