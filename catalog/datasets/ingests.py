"""The reading of a dataset's files as its owner sees it: how far it is, and the end of it on request.

What the worker says of it is catalog/datasets/progress.py. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from catalog.datasets import progress
from catalog.datasets.models import DatasetFile, DatasetIngest
from catalog.datasets.service import find_dataset
from catalog.db import db_now
from catalog.job_requests import FILLING, enqueue_once
from catalog.jobs import Job, JobState, Kind, Queue
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.ingest import IngestPhase, IngestStatus
from contracts.layouts import FileKind

LOST = "reading it failed several times; upload it again, in another form if that happens once more"
FETCH_LOST = "fetching it failed several times; offer it again, or download it and upload the file"


@dataclass(frozen=True)
class IngestView:
    """One reading of a dataset's files; found = done + what is still to be read, done = used + duplicate + rejected."""

    dataset_id: str
    number: int
    seq: int
    status: IngestStatus
    phase: IngestPhase | None
    file: str | None
    file_done: int | None
    file_total: int | None
    found: int
    fates: dict[Fate, int]
    found_bytes: int
    done_bytes: int
    waits_for: str | None
    began_at: float | None
    ended_at: float | None

    @property
    def done(self) -> int:
        """Files that have met their fate."""
        return self.found - self.fates[Fate.PENDING]


@dataclass(frozen=True)
class Cancellation:
    """What is left after a cancel: keys of blobs to remove once it is committed; none while a worker has to stop."""

    ingest: IngestView
    blob_keys: Sequence[str]


def read(session: Session, owner: str, id_or_name: str) -> IngestView:
    """The newest reading of a dataset.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset_id = find_dataset(session, owner, id_or_name).id
    row = progress.find(session, owner, dataset_id)
    unfinished = session.execute(_unfinished(owner, dataset_id, Job.state, Job.cancel_requested_at)).all()
    counted = _counted(session, owner, dataset_id)
    waiting = any(fate == Fate.PENDING for _, fate in counted)
    is_next = bool(unfinished and waiting) and (row is None or row.ended_at is not None)
    waits_for = None if row is None else _waits_for(session, row)
    return _view(dataset_id, row, _status(row, unfinished), counted, waits_for, is_next=is_next)


def cancel(session: Session, owner: str, id_or_name: str) -> Cancellation:
    """Read no more of what was offered so far: what was read stays, the rest is rejected at once. Twice is once.

    A worker that is reading stops before the next file and brings together what was read; without one that is done
    here.

    Raises:
        PatinaError: NOT_FOUND; CONFLICT: nothing is being read.
    """
    dataset = find_dataset(session, owner, id_or_name)
    # The jobs first, as workers do: nobody claims or ends one of them meanwhile.
    held = session.scalars(_unfinished(owner, dataset.id, Job).with_for_update()).all()
    if not held:
        seen = read(session, owner, dataset.id)
        if seen.status is IngestStatus.CANCELLED:
            return Cancellation(seen, ())
        hint = "Its ledger says what became of everything offered."
        raise PatinaError(FailureCode.CONFLICT, f"Nothing of '{dataset.name}' is being read.", hint)
    for job in held:
        job.cancel_requested_at = db_now()
        if job.state == JobState.QUEUED:
            job.state, job.finished_at = JobState.CANCELLED, db_now()
    session.flush()
    progress.give_up(session, owner, dataset.id, progress.CANCELLED)
    keys: Sequence[str] = ()
    if not any(job.state == JobState.LEASED for job in held):
        keys = progress.conclude(session, owner, dataset.id, IngestStatus.CANCELLED)
    return Cancellation(read(session, owner, dataset.id), keys)


def after_job(
    session: Session, owner: str, dataset_id: str, state: JobState | None, kind: str = Kind.INGEST
) -> list[str]:
    """A job was taken from its worker, or given back by it: queued again, failed or cancelled; the reading follows.

    Returns:
        Keys of blobs to remove once this is committed.
    """
    if state == JobState.FAILED and kind == Kind.FETCH:
        progress.give_up(session, owner, dataset_id, FETCH_LOST, [FileKind.URL])
        enqueue_once(session, owner, Queue.LIGHT, Kind.INGEST, dataset_id)  # captions of these are for nobody
    elif state == JobState.FAILED:
        if progress.give_up_next(session, owner, dataset_id, LOST):
            enqueue_once(session, owner, Queue.LIGHT, Kind.INGEST, dataset_id)
            return []
        return progress.conclude(session, owner, dataset_id, IngestStatus.FAILED)
    if state == JobState.CANCELLED:
        return progress.conclude(session, owner, dataset_id, IngestStatus.CANCELLED)
    return []


def _unfinished(owner: str, dataset_id: str, *columns: Any) -> Select[Any]:
    return select(*columns).where(
        Job.owner == owner,
        Job.kind.in_(FILLING),
        Job.subject_id == dataset_id,
        Job.state.in_([JobState.QUEUED, JobState.LEASED]),
    )


def _status(row: DatasetIngest | None, unfinished: Sequence[Any]) -> IngestStatus:
    wanted_gone = [cancel_requested_at for state, cancel_requested_at in unfinished if state == JobState.LEASED]
    if wanted_gone:
        return IngestStatus.READING if None in wanted_gone else IngestStatus.CANCELLING
    if unfinished:
        return IngestStatus.QUEUED
    return IngestStatus.IDLE if row is None else IngestStatus(row.outcome or IngestStatus.DONE)


def _view(
    dataset_id: str,
    row: DatasetIngest | None,
    status: IngestStatus,
    counted: dict[tuple[int | None, str], tuple[int, int]],
    waits_for: str | None,
    *,
    is_next: bool,
) -> IngestView:
    """What the reading took and what nobody has taken yet; of the one after it only that."""
    current = None if is_next else row
    number = current.number if current else None
    fates, sizes = dict.fromkeys(Fate, 0), dict.fromkeys(Fate, 0)
    for (taken_by, fate), (files, size) in counted.items():
        if fate == Fate.PENDING or (number is not None and taken_by == number):
            fates[Fate(fate)] += files
            sizes[Fate(fate)] += size
    return IngestView(
        dataset_id=dataset_id,
        number=(row.number if row else 0) + is_next,
        seq=row.seq if row else 0,
        status=status,
        phase=IngestPhase(current.phase) if current and current.phase else None,
        file=current.file if current else None,
        file_done=current.file_done if current else None,
        file_total=current.file_total if current else None,
        found=sum(fates.values()),
        fates=fates,
        found_bytes=sum(sizes.values()),
        done_bytes=sum(sizes.values()) - sizes[Fate.PENDING],
        waits_for=waits_for,
        began_at=current.began_at if current else None,
        ended_at=current.ended_at if current else None,
    )


def _counted(session: Session, owner: str, dataset_id: str) -> dict[tuple[int | None, str], tuple[int, int]]:
    """Files and their bytes by the reading that took them and their fate; an index holds all that is asked."""
    query = (
        select(DatasetFile.ingest, DatasetFile.fate, func.count(), func.sum(DatasetFile.bytes))
        .where(DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id)
        .group_by(DatasetFile.ingest, DatasetFile.fate)
    )
    return {(ingest, fate): (files, int(size or 0)) for ingest, fate, files, size in session.execute(query)}


def _waits_for(session: Session, row: DatasetIngest) -> str | None:
    """A file that was taken and cannot be read yet, and what keeps it."""
    query = select(DatasetFile).where(
        DatasetFile.owner == row.owner,
        DatasetFile.dataset_id == row.dataset_id,
        DatasetFile.ingest == row.number,
        DatasetFile.fate == Fate.PENDING,
        DatasetFile.reason.is_not(None),
    )
    file = session.scalars(query.limit(1)).first()
    return None if file is None else f"{file.filename}: {file.reason}"
