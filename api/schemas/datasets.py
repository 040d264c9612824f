"""What the API takes and answers about datasets and their versions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.common import Answer, Failure, moment
from catalog.datasets.models import DatasetVersion
from catalog.datasets.service import DatasetView, summary_of
from contracts.dataset import DEFAULT_HELD_OUT_SHARE, DatasetStatus


class DatasetIn(BaseModel):
    """A dataset to make."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["my-style"])]


class FreezeIn(BaseModel):
    """How to freeze a version."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    held_out_share: Annotated[float, Field(ge=0, le=0.5)] = DEFAULT_HELD_OUT_SHARE
    """Share of the images kept from training, to measure the held-out loss on."""
    accept_warnings: bool = False
    """Freeze although the ledger's summary warns that something was probably not meant."""


class DatasetOut(Answer):
    """A growing collection of images; runs use its frozen versions."""

    id: str
    name: str
    status: DatasetStatus
    """``ready`` can be frozen; ``ingesting`` files are still being read; ``empty`` has no image."""
    images: int
    pending_files: int
    created_at: datetime


class UploadedFile(Answer):
    """What became of one file of an upload request."""

    name: str
    bytes: int
    accepted: bool
    problem: Failure | None
    """Why the file was not accepted; the others are not affected."""


class UploadOut(Answer):
    """What became of an upload: accepted files are stored and will be read; the ledger tells each one's fate."""

    dataset: str
    accepted: int
    refused: int
    files: list[UploadedFile]


class VersionOut(Answer):
    """A frozen state of a dataset, which never changes."""

    id: str
    version: int
    digest: str
    """sha256 over its rows; the same content gives the same digest."""
    held_out_share: float
    train_images: int
    held_out_images: int
    withdrawn: bool
    """Its images and captions were removed: no run may use it, and it cannot be downloaded."""
    created_at: datetime


def dataset_out(dataset: DatasetView) -> DatasetOut:
    """A catalog view as the API shows it."""
    return DatasetOut(
        id=dataset.id,
        name=dataset.name,
        status=dataset.status,
        images=dataset.images,
        pending_files=dataset.pending_files,
        created_at=moment(dataset.created_at),
    )


def version_out(version: DatasetVersion) -> VersionOut:
    """A version as the API shows it."""
    summary = summary_of(version)
    return VersionOut(
        id=version.id,
        version=version.number,
        digest=version.digest,
        held_out_share=version.held_out_share,
        train_images=summary.train_images,
        held_out_images=summary.held_out_images,
        withdrawn=version.withdrawn_at is not None,
        created_at=moment(version.created_at),
    )
