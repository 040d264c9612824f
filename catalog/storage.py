"""What lies in the blob store and who refers to it: what can go, and what uses how much.

A blob is stored before the row that refers to it is committed, so that a crash in between leaves one nobody refers to.
The collector takes those, when nothing has touched them for a grace period: longer than any step between a blob and
its commit. Knows nothing about what blobs hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from catalog.blobs import BlobStore
from catalog.datasets.models import Dataset, DatasetFile, DatasetImage, DatasetVersion, DatasetVersionRow
from catalog.db import Base, Database
from catalog.generations.models import GenerationImage
from catalog.registry.models import Weights
from catalog.runs.models import RunPreview
from catalog.uploads.models import UploadPiece
from contracts.dataset import Fate
from contracts.layouts import FileKind

COLLECTED = ("uploads", "pieces", "images", "runs")
"""Prefixes of keys that rows refer to; what lies elsewhere is not the collector's."""
REFERRING = "_key"
"""How names of columns end that hold a blob's key."""
READ_AT_ONCE = 5000


@dataclass(frozen=True)
class Collected:
    """What the collector removed."""

    blobs: int
    bytes: int


@dataclass(frozen=True)
class Use:
    """What one thing takes; ``name`` is of the dataset, for those."""

    what: str
    name: str | None
    files: int
    bytes: int


def collect(database: Database, blobs: BlobStore, grace_s: float) -> Collected:
    """Remove blobs nothing refers to and nothing has touched for ``grace_s``; any process may, several at once too."""
    # Listed first, references read after: one that came between is in the references, one that comes later has
    # touched its blob, which ``discard`` sees.
    idle = {
        blob.key: blob.bytes for prefix in COLLECTED for blob in blobs.listed(prefix, grace_s) if blob.age_s > grace_s
    }
    with database.reading() as session:
        for key in _referred(session):
            idle.pop(key, None)
    gone = [key for key in idle if blobs.discard(key, grace_s)]
    return Collected(len(gone), sum(idle[key] for key in gone))


def usage(session: Session, blobs: BlobStore, owner: str) -> list[Use]:
    """What an owner's things take; an image two datasets hold counts in both."""
    images = {blob.key: blob.bytes for blob in blobs.listed(f"images/{owner}")}
    waiting = {blob.key: blob.bytes for blob in blobs.listed(f"uploads/{owner}")}
    used: set[str] = set()
    found = []
    for name, keys in _kept_images(session, owner):
        used |= keys
        found.append(_use("dataset", name, images, keys))
    generated = set(session.scalars(select(GenerationImage.blob_key).where(GenerationImage.owner == owner)))
    unread = set(
        session.scalars(
            select(DatasetFile.blob_key).where(DatasetFile.owner == owner, DatasetFile.fate == Fate.PENDING)
        )
    )
    idle = {key: size for key, size in images.items() if key not in used | generated}
    idle |= {key: size for key, size in waiting.items() if key not in unread}
    return [
        *found,
        _use("generated pictures", None, images, generated),
        _summed(session, "weights", Weights, owner),
        _summed(session, "previews of runs", RunPreview, owner),
        _use("uploads to be read", None, waiting, {key for key in unread if key}),
        _summed(session, "uploads still arriving", UploadPiece, owner),
        _use("nothing refers to", None, idle, idle),
    ]


def _referred(session: Session) -> Iterator[str]:
    """Every key a row needs. Columns are found by their name: one that is forgotten would cost its blobs."""
    for column in referring_columns():
        query = select(column).where(column.is_not(None))
        if column.table.name == DatasetFile.__tablename__:
            query = query.where(_needs_its_blob())
        yield from session.scalars(query.execution_options(yield_per=READ_AT_ONCE))


def referring_columns() -> list[Column[Any]]:
    """Columns that hold keys of blobs, of every table there is."""
    return [
        column for table in Base.metadata.sorted_tables for column in table.columns if column.name.endswith(REFERRING)
    ]


def _needs_its_blob() -> ColumnElement[bool]:
    """Of files that were read only masks do: theirs is the stored mask, which may wait for an image to come."""
    return or_(DatasetFile.fate == Fate.PENDING, (DatasetFile.kind == FileKind.MASK) & DatasetFile.image.is_not(None))


def _kept_images(session: Session, owner: str) -> Iterator[tuple[str, set[str]]]:
    """Each dataset's name and the blobs of its images, masks and versions."""
    for dataset in session.scalars(select(Dataset).where(Dataset.owner == owner).order_by(Dataset.name)):
        now = select(DatasetImage.blob_key, DatasetImage.mask_key).where(DatasetImage.dataset_id == dataset.id)
        frozen = (
            select(DatasetVersionRow.blob_key, DatasetVersionRow.mask_key)
            .join(DatasetVersion, DatasetVersion.id == DatasetVersionRow.version_id)
            .where(DatasetVersion.dataset_id == dataset.id)
            .distinct()
        )
        masks = select(DatasetFile.blob_key).where(
            DatasetFile.dataset_id == dataset.id, DatasetFile.kind == FileKind.MASK, DatasetFile.image.is_not(None)
        )
        rows = (row for query in (now, frozen, masks) for row in session.execute(query))
        yield dataset.told_name, {key for row in rows for key in row if key}


def _use(what: str, name: str | None, sizes: dict[str, int], keys: Iterable[str]) -> Use:
    there = [sizes[key] for key in keys if key in sizes]
    return Use(what, name, len(there), sum(there))


def _summed(session: Session, what: str, table: Any, owner: str) -> Use:
    files, size_bytes = session.execute(select(func.count(), func.sum(table.bytes)).where(table.owner == owner)).one()
    return Use(what, None, files, int(size_bytes or 0))
