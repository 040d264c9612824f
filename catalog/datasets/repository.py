"""SQL over datasets, their ledger, images and versions. Knows nothing about why a file meets its fate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, func, insert, or_, select, update
from sqlalchemy.orm import Session

from catalog.datasets.models import (
    Dataset,
    DatasetEdit,
    DatasetEditChange,
    DatasetFile,
    DatasetImage,
    DatasetVersion,
    DatasetVersionRow,
)
from catalog.job_requests import FILLING, unfinished
from contracts.dataset import Fate
from contracts.layouts import FileKind


class Counts(NamedTuple):
    """Images, files nobody has looked into, and whether a worker has yet to finish reading."""

    images: int
    pending: int
    being_read: bool


def owned(owner: str) -> Select[Dataset]:
    """An owner's datasets, but those removed."""
    return select(Dataset).where(Dataset.owner == owner, Dataset.removed_at.is_(None))


def find(session: Session, owner: str, id_or_name: str, *, hold: bool = False) -> Dataset | None:
    """A dataset by id or by name; an id wins over a name that looks like one. One that was removed is not found.

    With ``hold`` nobody removes it before the transaction ends, and one that is just being removed is waited for.
    """
    query = owned(owner).where(or_(Dataset.id == id_or_name, Dataset.name == id_or_name))
    found = session.scalars(query.with_for_update(read=True, key_share=True) if hold else query).all()
    return max(found, key=lambda dataset: dataset.id == id_or_name, default=None)


def lock(session: Session, owner: str, dataset_id: str) -> Dataset | None:
    """A dataset, locked until the transaction ends, so that two cannot freeze or settle it at once."""
    return session.scalar(owned(owner).where(Dataset.id == dataset_id).with_for_update())


def counts(session: Session, owner: str, dataset_ids: Sequence[str]) -> dict[str, Counts]:
    """What is in each dataset."""
    there = (DatasetImage.owner == owner) & DatasetImage.removed_at.is_(None)
    images = _counted(session, DatasetImage.dataset_id, there, dataset_ids)
    pending = _counted(
        session, DatasetFile.dataset_id, (DatasetFile.owner == owner) & (DatasetFile.fate == Fate.PENDING), dataset_ids
    )
    being_read = unfinished(session, owner, FILLING, dataset_ids)
    return {key: Counts(images.get(key, 0), pending.get(key, 0), key in being_read) for key in dataset_ids}


def files(
    session: Session, owner: str, dataset_id: str, after_id: int = 0, limit: int | None = None
) -> Sequence[DatasetFile]:
    """Ledger rows in the order they were offered."""
    query = select(DatasetFile).where(
        DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id, DatasetFile.id > after_id
    )
    return session.scalars(query.order_by(DatasetFile.id).limit(limit)).all()


def ledger_rows(
    session: Session, owner: str, dataset_id: str, fate: Fate | None, after_id: int, limit: int
) -> Sequence[tuple[DatasetFile, DatasetImage | None]]:
    """Ledger rows in the order they were offered, of one fate or all, each with the image it shows or describes."""
    same = (DatasetImage.dataset_id == DatasetFile.dataset_id) & (DatasetImage.image == DatasetFile.image)
    query = (
        select(DatasetFile, DatasetImage)
        .outerjoin(DatasetImage, same)
        .where(DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id, DatasetFile.id > after_id)
        .order_by(DatasetFile.id)
    )
    if fate is not None:
        query = query.where(DatasetFile.fate == fate)
    return [(row, image) for row, image in session.execute(query.limit(limit))]


def fates(session: Session, owner: str, dataset_id: str) -> dict[str, int]:
    """How many ledger rows met which fate."""
    query = select(DatasetFile.fate, func.count()).where(
        DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id
    )
    return {str(fate): count for fate, count in session.execute(query.group_by(DatasetFile.fate))}


def file(session: Session, owner: str, file_id: int) -> DatasetFile | None:
    """One ledger row."""
    return session.scalar(select(DatasetFile).where(DatasetFile.owner == owner, DatasetFile.id == file_id))


def add_files(session: Session, rows: Iterable[DatasetFile]) -> None:
    """Add ledger rows by the thousand, in their order, while nobody else can write: none becomes the session's."""
    columns = [column.key for column in DatasetFile.__table__.columns if column.key not in ("id", "offered_at")]
    values = [{name: vars(row).get(name) for name in columns} for row in rows]
    if values:
        session.execute(insert(DatasetFile), values)


def pending(session: Session, owner: str, dataset_id: str, limit: int) -> Sequence[DatasetFile]:
    """Files that are here and that nobody has looked into yet, oldest first."""
    query = select(DatasetFile).where(
        DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id, DatasetFile.fate == Fate.PENDING
    )
    return session.scalars(query.where(DatasetFile.kind != FileKind.URL).order_by(DatasetFile.id).limit(limit)).all()


def children(session: Session, owner: str, parent_id: int) -> Sequence[DatasetFile]:
    """What was inside an archive or metadata file."""
    query = select(DatasetFile).where(DatasetFile.owner == owner, DatasetFile.parent_id == parent_id)
    return session.scalars(query.order_by(DatasetFile.child_index)).all()


def child(session: Session, owner: str, parent_id: int, index: int) -> DatasetFile | None:
    """What is at one place inside a file."""
    query = select(DatasetFile).where(DatasetFile.owner == owner, DatasetFile.parent_id == parent_id)
    return session.scalar(query.where(DatasetFile.child_index == index))


def forget_blobs(session: Session, owner: str, dataset_id: str, reason: str) -> list[str]:
    """Of files rejected for this reason, the keys of the blobs they came as; the rows no longer name them."""
    mine = (
        DatasetFile.owner == owner,
        DatasetFile.dataset_id == dataset_id,
        DatasetFile.fate == Fate.REJECTED,
        DatasetFile.reason == reason,
        DatasetFile.blob_key.is_not(None),
    )
    keys = [key for key in session.scalars(select(DatasetFile.blob_key).where(*mine)) if key]
    session.execute(update(DatasetFile).where(*mine).values(blob_key=None))
    return keys


def image(session: Session, owner: str, dataset_id: str, identity: str) -> DatasetImage | None:
    """One image of a dataset."""
    return session.scalar(
        select(DatasetImage).where(
            DatasetImage.owner == owner, DatasetImage.dataset_id == dataset_id, DatasetImage.image == identity
        )
    )


def count_images(session: Session, owner: str, dataset_id: str) -> int:
    """How many images a dataset keeps, those taken out as well."""
    query = select(func.count()).where(DatasetImage.owner == owner, DatasetImage.dataset_id == dataset_id)
    return session.scalar(query) or 0


def any_image(session: Session, owner: str, identity: str) -> DatasetImage | None:
    """An image of any of the owner's datasets."""
    query = select(DatasetImage).where(DatasetImage.owner == owner, DatasetImage.image == identity)
    return session.scalars(query.limit(1)).first()


def images(session: Session, owner: str, dataset_id: str) -> Sequence[DatasetImage]:
    """Every image of a dataset, by identity, but those taken out."""
    return session.scalars(_images(owner, dataset_id, removed=False)).all()


def images_after(
    session: Session, owner: str, dataset_id: str, after: str, limit: int, *, removed: bool
) -> Sequence[DatasetImage]:
    """Images in the dataset, or taken out of it, whose identity comes after ``after``."""
    return session.scalars(_images(owner, dataset_id, removed).where(DatasetImage.image > after).limit(limit)).all()


def reject_removed(session: Session, owner: str, dataset_id: str, image: str, reason: str) -> None:
    """The files of an image that was taken out are used no more."""
    mine = update(DatasetFile).where(
        DatasetFile.owner == owner,
        DatasetFile.dataset_id == dataset_id,
        DatasetFile.fate == Fate.USED,
        DatasetFile.image == image,
    )
    session.execute(mine.values(fate=Fate.REJECTED, reason=reason), execution_options={"synchronize_session": "fetch"})


def images_looking_like(session: Session, owner: str, dataset_id: str, image: str) -> Sequence[DatasetImage]:
    """The images that were found to look most like this one."""
    return session.scalars(_images(owner, dataset_id, removed=False).where(DatasetImage.near_image == image)).all()


def likenesses(session: Session, owner: str, dataset_id: str) -> dict[str, str]:
    """The perceptual hash of every image of a dataset, but those taken out."""
    columns = (DatasetImage.image, DatasetImage.likeness)
    query = _images(owner, dataset_id, removed=False).with_only_columns(*columns)
    return {image: likeness for image, likeness in session.execute(query) if likeness}


def newest_edit(session: Session, owner: str, dataset_id: str) -> DatasetEdit | None:
    """The last edit that has not been undone."""
    query = select(DatasetEdit).where(
        DatasetEdit.owner == owner, DatasetEdit.dataset_id == dataset_id, DatasetEdit.undone_at.is_(None)
    )
    return session.scalars(query.order_by(DatasetEdit.id.desc()).limit(1)).first()


def edited_images(session: Session, edit: DatasetEdit) -> Sequence[tuple[DatasetImage, DatasetEditChange]]:
    """The images an edit changed, each with the change."""
    query = (
        select(DatasetImage, DatasetEditChange)
        .join(DatasetEditChange, DatasetEditChange.image == DatasetImage.image)
        .where(DatasetEditChange.owner == edit.owner, DatasetEditChange.edit_id == edit.id)
        .where(DatasetImage.owner == edit.owner, DatasetImage.dataset_id == edit.dataset_id)
    )
    return [(image, change) for image, change in session.execute(query.order_by(DatasetImage.image))]


def versions(session: Session, owner: str, dataset_id: str) -> Sequence[DatasetVersion]:
    """Versions, the one frozen last first."""
    query = select(DatasetVersion).where(DatasetVersion.owner == owner, DatasetVersion.dataset_id == dataset_id)
    return session.scalars(query.order_by(DatasetVersion.frozen_at.desc(), DatasetVersion.number.desc())).all()


def version(session: Session, owner: str, version_id: str) -> DatasetVersion | None:
    """One version by id."""
    return session.scalar(select(DatasetVersion).where(DatasetVersion.owner == owner, DatasetVersion.id == version_id))


def hold_versions(session: Session, owner: str, version_ids: Sequence[str]) -> set[str]:
    """Those of the versions that can be used, kept so until the transaction ends."""
    query = select(DatasetVersion.id).where(DatasetVersion.owner == owner, DatasetVersion.id.in_(version_ids))
    return set(session.scalars(query.where(DatasetVersion.withdrawn_at.is_(None)).with_for_update(read=True)))


def version_rows(session: Session, owner: str, version_id: str) -> Sequence[DatasetVersionRow]:
    """The rows of a version in canonical order."""
    query = select(DatasetVersionRow).where(
        DatasetVersionRow.owner == owner, DatasetVersionRow.version_id == version_id
    )
    return session.scalars(query.order_by(DatasetVersionRow.position)).all()


def add_version_rows(session: Session, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows of a version."""
    session.execute(insert(DatasetVersionRow), list(rows))


def _images(owner: str, dataset_id: str, removed: bool) -> Select[DatasetImage]:
    query = select(DatasetImage).where(DatasetImage.owner == owner, DatasetImage.dataset_id == dataset_id)
    gone = DatasetImage.removed_at.is_not(None) if removed else DatasetImage.removed_at.is_(None)
    return query.where(gone).order_by(DatasetImage.image)


def _counted(session: Session, column: Any, where: Any, dataset_ids: Sequence[str]) -> dict[str, int]:
    query = select(column, func.count()).where(where, column.in_(dataset_ids)).group_by(column)
    return {dataset_id: count for dataset_id, count in session.execute(query)}  # noqa: C416 - dict() loses the types
