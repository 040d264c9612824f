"""Datasets as their owners use them: create, offer files, read the ledger, freeze. Knows nothing about HTTP or pixels.

What the worker writes while it reads the files is catalog/datasets/ingest.py; a version's Parquet file is
catalog/datasets/parquet.py. Freezing needs neither: digest, splits and rows come from the database at once, and the
Parquet is written when a run or a download needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.datasets import repository
from catalog.datasets.captions import tidy_name
from catalog.datasets.doubts import find_doubts, in_words
from catalog.datasets.models import Dataset, DatasetFile, DatasetVersion
from catalog.datasets.repository import Counts
from catalog.datasets.versions import VersionImage, assemble, current_image, frozen_image
from catalog.db import add_unique, db_now, new_id
from catalog.job_requests import enqueue_once
from catalog.paging import DEFAULT_LIMIT, Page, page
from contracts.dataset import DEFAULT_HELD_OUT_SHARE, DatasetStatus, DatasetSummary, Fate, summarise
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.layouts import kind_of

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")


@dataclass(frozen=True)
class DatasetView:
    """A dataset and what is in it now."""

    id: str
    name: str
    status: DatasetStatus
    images: int
    pending_files: int
    created_at: float


@dataclass(frozen=True)
class Freeze:
    """A version; ``created`` is False when the same content had been frozen before."""

    version: DatasetVersion
    created: bool


def create(session: Session, owner: str, name: str) -> DatasetView:
    """Make an empty dataset.

    Raises:
        InvalidInput: the name is not a name.
        PatinaError: CONFLICT: the owner has one of that name.
    """
    if not NAME.fullmatch(name):
        message = "use up to 64 lowercase letters, digits, '.', '_' and '-', beginning with a letter or digit"
        raise InvalidInput([FieldError(pointer="/name", message=message)])
    dataset = Dataset(id=new_id("ds"), owner=owner, name=name)
    if repository.find(session, owner, name) is not None or not add_unique(session, dataset):
        message = f"There is a dataset named '{name}' already."
        raise PatinaError(FailureCode.CONFLICT, message, "Upload to it, or choose another name.")
    return _view(dataset, Counts(0, 0, False))


def list_datasets(
    session: Session, owner: str, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[DatasetView]:
    """An owner's datasets, newest first."""
    found = page(session, repository.owned(owner), Dataset, cursor, limit)
    counts = repository.counts(session, owner, [dataset.id for dataset in found.items])
    return Page([_view(dataset, counts[dataset.id]) for dataset in found.items], found.next_cursor)


def read(session: Session, owner: str, id_or_name: str) -> DatasetView:
    """One dataset by id or name.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = find_dataset(session, owner, id_or_name)
    return _view(dataset, repository.counts(session, owner, [dataset.id])[dataset.id])


def offer_upload(
    session: Session, owner: str, dataset_id: str, filename: str, blob_key: str, size_bytes: int
) -> DatasetFile:
    """Enter an uploaded file (already in the blob store) into the ledger as pending, and have it read.

    Any number of calls in one transaction make one ingest job.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = find_dataset(session, owner, dataset_id)
    # The job first and then the dataset, as removal does, which so never waits for who waits for it.
    enqueue_once(session, owner, jobs.Queue.LIGHT, jobs.Kind.INGEST, dataset.id)
    dataset = find_dataset(session, owner, dataset.id, hold=True)
    row = DatasetFile(
        owner=owner,
        dataset_id=dataset.id,
        filename=tidy_name(filename) or "unnamed",
        kind=kind_of(filename),
        blob_key=blob_key,
        bytes=size_bytes,
    )
    session.add(row)
    session.flush()
    return row


def note_refused(
    session: Session, owner: str, dataset_id: str, filename: str, size_bytes: int, reason: str
) -> DatasetFile:
    """Enter a file that was refused at the door into the ledger, so that it tells of everything offered.

    Raises:
        PatinaError: NOT_FOUND.
    """
    row = DatasetFile(
        owner=owner,
        dataset_id=find_dataset(session, owner, dataset_id, hold=True).id,
        filename=tidy_name(filename) or "unnamed",
        kind=kind_of(filename),
        bytes=size_bytes,
        fate=Fate.REJECTED,
        reason=reason,
    )
    session.add(row)
    session.flush()
    return row


def ledger(
    session: Session, owner: str, dataset_id: str, after_id: int = 0, limit: int = 1000
) -> Sequence[DatasetFile]:
    """Every file ever offered and its fate, oldest first, those after row ``after_id``.

    Raises:
        PatinaError: NOT_FOUND.
    """
    return repository.files(session, owner, find_dataset(session, owner, dataset_id).id, after_id, limit)


def freeze(
    session: Session,
    owner: str,
    dataset_id: str,
    held_out_share: float = DEFAULT_HELD_OUT_SHARE,
    *,
    accept_warnings: bool = False,
) -> Freeze:
    """Make the dataset's images and captions of this moment a version that never changes.

    The same content (images, captions and splits) gives the version it gave before, which then is the latest.

    Raises:
        InvalidInput: the share is not in [0, 0.5].
        PatinaError: NOT_FOUND, UNFINISHED_INGEST, EMPTY_DATASET, or DOUBTFUL_DATASET unless warnings are accepted.
    """
    if not 0 <= held_out_share <= 0.5:
        raise InvalidInput([FieldError(pointer="/held_out_share", message="must be between 0 and 0.5")])
    dataset = find_dataset(session, owner, dataset_id)
    repository.lock(session, owner, dataset.id)
    counts = repository.counts(session, owner, [dataset.id])[dataset.id]
    if counts.pending or counts.being_read:
        raise PatinaError(FailureCode.UNFINISHED_INGEST, f"Files uploaded to '{dataset.name}' are still being read.")
    if not counts.images:
        raise PatinaError(FailureCode.EMPTY_DATASET, f"The dataset '{dataset.name}' has no usable image.")
    doubts = [] if accept_warnings else find_doubts(session, owner, dataset.id, held_out_share)
    if doubts:
        raise PatinaError(FailureCode.DOUBTFUL_DATASET, in_words(doubts))
    images = repository.images(session, owner, dataset.id)
    marked = {image.image: image.current_split for image in images if image.current_split is not None}
    contents = assemble(map(current_image, images), held_out_share, marked)
    summary = summarise(entry.row for entry in contents)
    if not summary.train_images:
        message = f"Every image of '{dataset.name}' is marked as held out; none is left to train on."
        raise PatinaError(FailureCode.EMPTY_DATASET, message, "Mark at least one as train, or take marks back.")
    earlier = repository.versions(session, owner, dataset.id)
    for version in earlier:
        if version.digest == summary.digest:
            if version.withdrawn_at is not None:
                version.withdrawn_at = None  # the same content is the same version, also when it comes back
                _write_rows(session, version, contents)
            version.frozen_at = db_now()
            session.flush()
            return Freeze(version, created=False)
    version = DatasetVersion(
        id=new_id("dsv"),
        owner=owner,
        dataset_id=dataset.id,
        number=1 + max((version.number for version in earlier), default=0),
        digest=summary.digest,
        held_out_share=held_out_share,
        summary=summary.model_dump(mode="json"),
    )
    session.add(version)
    session.flush()
    _write_rows(session, version, contents)
    return Freeze(version, created=True)


def list_versions(session: Session, owner: str, dataset_id: str) -> Sequence[DatasetVersion]:
    """Versions, the one frozen last first.

    Raises:
        PatinaError: NOT_FOUND.
    """
    return repository.versions(session, owner, find_dataset(session, owner, dataset_id).id)


def read_version(session: Session, owner: str, dataset_id: str, number: int | None = None) -> DatasetVersion:
    """One version by number; None is the one frozen last.

    Raises:
        PatinaError: NOT_FOUND: no such dataset, no such version, or nothing frozen yet; CONFLICT: it was withdrawn.
    """
    dataset = find_dataset(session, owner, dataset_id)
    every = repository.versions(session, owner, dataset.id)
    versions = [version for version in every if version.withdrawn_at is None]
    for version in every:
        if version.number == number and version.withdrawn_at is not None:
            message = f"Version {number} of '{dataset.name}' was withdrawn: its images were removed."
            raise PatinaError(FailureCode.CONFLICT, message, "Its digest stays named; freeze what there is now.")
    if not versions:
        message = f"The dataset '{dataset.name}' has not been frozen."
        hint = f"Freeze it first: `patina datasets freeze {dataset.name}`."
        raise PatinaError(FailureCode.NOT_FOUND, message, hint)
    for version in versions:
        if number in (None, version.number):
            return version
    known = ", ".join(str(version.number) for version in versions)
    raise PatinaError(FailureCode.NOT_FOUND, f"'{dataset.name}' has no version {number}; there are: {known}.")


def version_by_id(session: Session, owner: str, version_id: str) -> DatasetVersion:
    """One version by id, for runs and workers.

    Raises:
        PatinaError: NOT_FOUND.
    """
    version = repository.version(session, owner, version_id)
    if version is None:
        raise PatinaError(FailureCode.NOT_FOUND)
    return version


def version_contents(session: Session, owner: str, version_id: str) -> list[VersionImage]:
    """The rows of a version in canonical order, and where their images lie: input of ``parquet.write``."""
    return [frozen_image(row) for row in repository.version_rows(session, owner, version_id)]


def summary_of(version: DatasetVersion) -> DatasetSummary:
    """What planning needs to know of a version."""
    return DatasetSummary.model_validate(version.summary)


def find_image(session: Session, owner: str, identity: str) -> str | None:
    """Blob key of a dataset image (PNG) by its identity, or None."""
    found = repository.any_image(session, owner, identity)
    return None if found is None else found.blob_key


def find_dataset(session: Session, owner: str, id_or_name: str, *, hold: bool = False) -> Dataset:
    """The row of one dataset, for the modules beside this one; whoever adds to it holds it until the commit.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = repository.find(session, owner, id_or_name, hold=hold)
    if dataset is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"There is no dataset '{id_or_name}'.")
    return dataset


def _view(dataset: Dataset, counts: Counts) -> DatasetView:
    filled = DatasetStatus.READY if counts.images else DatasetStatus.EMPTY
    status = DatasetStatus.INGESTING if counts.pending or counts.being_read else filled
    return DatasetView(dataset.id, dataset.name, status, counts.images, counts.pending, dataset.created_at)


def _write_rows(session: Session, version: DatasetVersion, contents: Sequence[VersionImage]) -> None:
    repository.add_version_rows(session, (_row_values(version, i, entry) for i, entry in enumerate(contents)))


def _row_values(version: DatasetVersion, position: int, entry: VersionImage) -> dict[str, object]:
    return {
        **entry.row.model_dump(),
        "owner": version.owner,
        "version_id": version.id,
        "position": position,
        "blob_key": entry.blob_key,
        "mask_key": entry.mask_key,
    }
