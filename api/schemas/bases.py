"""What the API answers about base models; where a base lies on the server is never told."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from api.schemas.common import Answer, Failure, failure, moment
from catalog.bases.models import Base
from catalog.bases.service import BaseStatus
from contracts.base import Family, PredictionType


class BaseOut(Answer):
    """A base model that weights are trained on and registered against."""

    name: str
    status: BaseStatus
    modality: Literal["image"] = "image"
    """What it makes."""
    family: Family | None
    identity: str | None
    """sha256 over UNet and text encoders; equal for a folder and a single file of the same weights."""
    vae_identity: str | None
    native_px: int | None
    """Side of the square it was trained at."""
    prediction_type: PredictionType | None
    parameters: int | None
    """Of the UNet."""
    licence: str | None
    failure: Failure | None
    created_at: datetime


def base_out(base: Base) -> BaseOut:
    """A catalog row as the API shows it, also one that an older version described."""
    known = base.description or {}
    return BaseOut(
        name=base.name,
        status=BaseStatus(base.status),
        family=known.get("family"),
        identity=base.identity,
        vae_identity=known.get("vae_identity"),
        native_px=known.get("native_px"),
        prediction_type=known.get("prediction_type"),
        parameters=known.get("profile", {}).get("unet_parameters"),
        licence=base.licence,
        failure=failure(base.failure_code, base.failure_message),
        created_at=moment(base.created_at),
    )
