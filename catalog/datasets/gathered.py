"""What settling reads and writes: ledger rows and images as plain records, and those of them that changed, in bulk.

A dataset may have a hundred thousand of each, and while they are brought together nobody else writes on SQLite: they
are no objects of the session's. Knows nothing about what is changed in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from catalog.datasets.models import DatasetFile, DatasetImage
from contracts.layouts import FileKind

KINDS = (FileKind.IMAGE, FileKind.CAPTION, FileKind.MASK, FileKind.METADATA, FileKind.TABLE, FileKind.URL)
"""Kinds of files that show or describe images, or hold what does."""

FILE_CHANGES = ("fate", "reason", "image", "caption", "caption_source")
IMAGE_CHANGES = ("caption", "caption_source", "concept", "repeats", "split", "mask", "mask_key", "near_image")


def gather(session: Session, owner: str, dataset_id: str) -> Gathered:
    """Everything of a dataset as it is now, ledger rows oldest first and images by identity."""
    session.flush()
    files = select(*(getattr(DatasetFile, field.name) for field in fields(FileLine))).where(
        DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id, DatasetFile.kind.in_(KINDS)
    )
    columns = (getattr(DatasetImage, field.name) for field in fields(ImageLine))
    images = select(DatasetImage.removed_at, *columns).where(
        DatasetImage.owner == owner, DatasetImage.dataset_id == dataset_id
    )
    seen = session.execute(images.order_by(DatasetImage.image)).all()
    lines = [FileLine(*row) for row in session.execute(files.order_by(DatasetFile.id))]
    kept = [ImageLine(*row) for removed_at, *row in seen if removed_at is None]
    return Gathered(
        owner=owner,
        dataset_id=dataset_id,
        files=lines,
        images={image.image: image for image in kept},
        removed={row.image for row in seen if row.removed_at is not None},
        were=(_told(lines, FILE_CHANGES), _told(kept, IMAGE_CHANGES)),
    )


def write_back(session: Session, gathered: Gathered) -> None:
    """Write what was changed since it was gathered, and nothing else."""
    files_were, images_were = gathered.were
    _write(session, DatasetFile, gathered, "id", gathered.files, FILE_CHANGES, files_were)
    _write(session, DatasetImage, gathered, "image", gathered.images.values(), IMAGE_CHANGES, images_were)
    for row in session:  # what it has loaded of them may be of before
        if isinstance(row, DatasetFile | DatasetImage):
            session.expire(row)


@dataclass(slots=True)
class FileLine:
    """What settling asks of a ledger row (``DatasetFile``), in its columns' names."""

    id: int
    kind: str
    parent_id: int | None
    filename: str
    blob_key: str | None
    fate: str
    reason: str | None
    image: str | None
    width: int | None
    height: int | None
    caption: str | None
    caption_source: str | None
    target: str | None
    concept: str | None
    repeats: int | None
    split: str | None
    note: str | None
    ingest: int | None


@dataclass(slots=True)
class ImageLine:
    """What settling asks of an image (``DatasetImage``), in its columns' names."""

    image: str
    source_name: str
    likeness: str | None
    caption: str | None
    caption_source: str | None
    concept: str | None
    repeats: int
    split: str | None
    mask: str | None
    mask_key: str | None
    near_image: str | None


@dataclass(frozen=True)
class Gathered:
    """A dataset's files, its images, and the identities of those that were taken out of it."""

    owner: str
    dataset_id: str
    files: Sequence[FileLine]
    images: dict[str, ImageLine]
    removed: set[str]
    were: tuple[list[Any], list[Any]]
    """What of files and images can change, as it was."""


def _told(lines: Iterable[Any], names: tuple[str, ...]) -> list[Any]:
    return list(map(attrgetter(*names), lines))


def _write(
    session: Session,
    model: type[DatasetFile] | type[DatasetImage],
    gathered: Gathered,
    key: str,
    lines: Iterable[Any],
    names: tuple[str, ...],
    were: list[Any],
) -> None:
    """Update the rows of the lines that changed, past the session, which takes twice as long as the database."""
    lines = list(lines)
    marks = [f"to_{name}" for name in (key, *names)]
    values = [
        dict(zip(marks, (getattr(line, key), *now), strict=True))
        for line, now, was in zip(lines, _told(lines, names), were, strict=True)
        if now != was
    ]
    if values:
        mine = model.owner == gathered.owner, model.dataset_id == gathered.dataset_id
        statement = update(model).where(*mine, getattr(model, key) == bindparam(f"to_{key}"))
        statement = statement.values({name: bindparam(f"to_{name}") for name in names})
        session.connection().execute(statement, values)
