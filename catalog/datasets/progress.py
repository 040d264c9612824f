"""What is remembered of a reading of a dataset's files: where it is, which files it took, how it ended.

A reading begins with the first file a worker takes and ends when nothing is left to be read, whichever jobs and
attempts that takes. Its numbers are counted in the ledger, so that they cannot differ from it. Knows nothing about
how files are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.datasets import repository
from catalog.datasets.models import DatasetFetch, DatasetFile, DatasetIngest
from catalog.datasets.settling import settle
from catalog.db import db_now
from catalog.job_requests import FILLING
from contracts.dataset import Fate
from contracts.ingest import IngestPhase, IngestStatus
from contracts.layouts import FileKind

CANCELLED = "cancelled by its owner; upload again to add it"
"""The reason of each file that was still to be read when the reading was cancelled."""


class CancelRequested(Exception):
    """The owner wants nothing more of it read; what was still to be read is rejected already."""


def hold(session: Session, claim: jobs.Claim) -> None:
    """Make this transaction the holder's of a job that is to go on.

    Raises:
        LeaseLost: another attempt has the job.
        CancelRequested: it is to stop.
    """
    jobs.hold(session, claim)
    if session.scalar(select(jobs.Job.cancel_requested_at).where(jobs.Job.id == claim.job_id)) is not None:
        raise CancelRequested


def find(session: Session, owner: str, dataset_id: str) -> DatasetIngest | None:
    """The newest reading of a dataset, under way or over."""
    query = select(DatasetIngest).where(DatasetIngest.owner == owner, DatasetIngest.dataset_id == dataset_id)
    return session.scalar(query)


def take(session: Session, claim: jobs.Claim, files: Sequence[DatasetFile]) -> None:
    """These files are read next by the job's holder: they belong to the reading under way, or begin one."""
    if not files:
        return
    row = _under_way(session, claim.owner, claim.subject_id)
    for file in files:
        file.ingest = row.number
    row.seq += 1
    session.flush()


def tell(
    session: Session,
    claim: jobs.Claim,
    phase: IngestPhase,
    file: str | None = None,
    done: int | None = None,
    total: int | None = None,
) -> None:
    """Say what the worker is doing; of an archive, how many of the files inside it have been taken out.

    Raises:
        LeaseLost: another attempt has the job.
        CancelRequested: it is to stop.
    """
    hold(session, claim)
    row = find(session, claim.owner, claim.subject_id)
    if row is None or row.ended_at is not None:
        return
    row.phase, row.file, row.file_done, row.file_total = phase, file, done, total
    row.seq += 1
    session.flush()


def has_failed(session: Session, claim: jobs.Claim) -> bool:
    """Whether an attempt at the job failed and nothing has met its fate since."""
    return bool(session.scalar(select(jobs.Job.failures).where(jobs.Job.id == claim.job_id)))


def came_on(session: Session, claim: jobs.Claim) -> None:
    """Files have met their fate: attempts that failed before do not count any more.

    So a reading of days may be broken off as often as it likes, and only what fails again and again is given up.
    """
    jobs.hold(session, claim)
    jobs.came_on(session, claim.job_id)


def give_up_next(session: Session, owner: str, dataset_id: str, reason: str) -> bool:
    """Reject the file that is read next, at which every attempt failed; whether others are left to be read."""
    files = repository.pending(session, owner, dataset_id, 2)
    for file in files[:1]:
        row = _under_way(session, owner, dataset_id)
        file.fate, file.reason, file.ingest = Fate.REJECTED, reason, row.number
        row.seq += 1
    session.flush()
    return len(files) > 1


def give_up(session: Session, owner: str, dataset_id: str, reason: str, kinds: Sequence[str] = tuple(FileKind)) -> None:
    """Reject what is still to be read, as part of the reading under way; the caller holds the jobs that read it."""
    mine = (
        *(DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id),
        *(DatasetFile.fate == Fate.PENDING, DatasetFile.kind.in_(kinds)),
    )
    if session.scalar(select(DatasetFile.id).where(*mine).limit(1)) is None:
        return
    row = _under_way(session, owner, dataset_id)
    rejected = {"fate": Fate.REJECTED, "reason": reason, "ingest": row.number}
    session.execute(update(DatasetFile).where(*mine).values(rejected))
    if FileKind.URL in kinds:
        session.execute(delete(DatasetFetch).where(DatasetFetch.owner == owner, DatasetFetch.dataset_id == dataset_id))
    row.seq += 1
    session.flush()


def conclude(session: Session, owner: str, dataset_id: str, outcome: IngestStatus) -> list[str]:
    """Bring together what was read of a reading that was cancelled or lost, and end it.

    Returns:
        Keys of the blobs of cancelled files, which nothing refers to once this is committed.
    """
    settle(session, owner, dataset_id)
    if not _is_read_on(session, owner, dataset_id):
        end(session, owner, dataset_id, outcome)
    return repository.forget_blobs(session, owner, dataset_id, CANCELLED)


def end(session: Session, owner: str, dataset_id: str, outcome: IngestStatus) -> None:
    """The reading under way is over; without one nothing changes."""
    row = find(session, owner, dataset_id)
    if row is None or row.ended_at is not None:
        return
    row.outcome, row.ended_at = outcome, db_now()
    row.phase = row.file = row.file_done = row.file_total = None
    row.seq += 1
    session.flush()


def _is_read_on(session: Session, owner: str, dataset_id: str) -> bool:
    """Whether a job that is not to stop has files of the dataset in hand: the reading is its own, or newer."""
    others = select(jobs.Job.id).where(
        jobs.Job.owner == owner,
        jobs.Job.kind.in_(FILLING),
        jobs.Job.subject_id == dataset_id,
        jobs.Job.state == jobs.JobState.LEASED,
        jobs.Job.cancel_requested_at.is_(None),
    )
    return session.scalar(others.limit(1)) is not None


def _under_way(session: Session, owner: str, dataset_id: str) -> DatasetIngest:
    row = find(session, owner, dataset_id)
    if row is None:
        row = DatasetIngest(owner=owner, dataset_id=dataset_id, number=1, seq=0)
        session.add(row)
    elif row.ended_at is not None:
        row.number, row.outcome, row.ended_at, row.began_at = row.number + 1, None, None, db_now()
    session.flush()
    return row
