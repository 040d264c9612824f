"""Pictures named by address: offered like files, one ledger row each under its address, fetched by a ``fetch`` job.

What was fetched is a pending picture like any other, for the ``ingest`` job to read. Every step of the worker takes
the job's claim: with a lost lease it raises ``LeaseLost`` and nothing is written; a row that has met its fate keeps it.
One pass of a job is:

    files = due(...); for each: record | reject | try_again | wait
    pass_on(...)

A pass takes some of what is due, and what is left is for a job of its own behind those of others: no list, however
long or slow, holds the queue. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.datasets import progress, repository
from catalog.datasets.models import DatasetFetch, DatasetFile
from catalog.datasets.service import find_dataset
from catalog.datasets.wording import take_text, words
from catalog.db import db_now
from catalog.job_requests import enqueue_once, hasten, unfinished
from contracts.captions import clean_caption
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.ingest import IngestPhase
from contracts.layouts import FileKind

PAUSES_S = (5.0, 30.0, 120.0)
"""How long an address is left alone after its first failure, its second, its third; after one more it is given up."""
NO_ROOM_PAUSE_S = 60.0
READ_AT_ONCE = 512
"""Pictures that wait to be read while more are fetched: each reading brings the whole dataset together."""
NAMES_A_QUERY = 5000


@dataclass(frozen=True)
class Wanted:
    """An address to fetch a picture from, and the picture's caption."""

    url: str
    caption: str | None = None


@dataclass(frozen=True)
class Offered:
    """How many addresses of a list are new, get another chance after they failed, or were there already."""

    new: int
    again: int
    known: int


@dataclass(frozen=True)
class Due:
    """An address to fetch from now."""

    file_id: int
    url: str


def offer(session: Session, owner: str, dataset: str, wanted: Sequence[Wanted]) -> Offered:
    """Enter addresses into the ledger and have them fetched; one that is there already is not fetched again.

    Raises:
        PatinaError: NOT_FOUND: there is no such dataset.
    """
    dataset_id = find_dataset(session, owner, dataset).id
    # The job first and then the dataset, as removal does, which so never waits for who waits for it.
    hasten(session, owner, jobs.Kind.FETCH, dataset_id)
    # Of two requests with one address the second finds the first's row.
    if repository.lock(session, owner, dataset_id) is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"There is no dataset '{dataset}'.")
    rows = _there(session, owner, dataset_id, [one.url for one in wanted])
    new = {
        one.url: DatasetFile(owner=owner, dataset_id=dataset_id, filename=one.url, kind=FileKind.URL, bytes=0)
        for one in wanted
        if one.url not in rows
    }
    again = {one.url: rows[one.url] for one in wanted if one.url in rows and _came_to_nothing(rows[one.url])}
    for row in again.values():
        row.kind, row.fate, row.bytes = FileKind.URL, Fate.PENDING, 0
        row.reason = row.note = row.blob_key = None
    session.add_all(new.values())
    session.flush()
    _forget(session, owner, [row.id for row in again.values()])
    waiting = [*new.values(), *again.values()]
    session.add_all(DatasetFetch(owner=owner, dataset_id=dataset_id, file_id=row.id) for row in waiting)
    said = _take_captions(session, rows, new, wanted)
    session.flush()
    if waiting:
        enqueue_once(session, owner, jobs.Queue.LIGHT, jobs.Kind.FETCH, dataset_id)
    elif said:
        enqueue_once(session, owner, jobs.Queue.LIGHT, jobs.Kind.INGEST, dataset_id)
    return Offered(len(new), len(again), len(wanted) - len(waiting))


def due(session: Session, claim: jobs.Claim, limit: int) -> list[Due]:
    """Addresses to fetch from now, those that waited longest first.

    Raises:
        LeaseLost: another attempt has the job.
        CancelRequested: none is to be fetched.
    """
    progress.hold(session, claim)
    query = (
        select(DatasetFile)
        .join(DatasetFetch, DatasetFetch.file_id == DatasetFile.id)
        .where(DatasetFile.owner == claim.owner, DatasetFetch.dataset_id == claim.subject_id)
        .where(DatasetFile.fate == Fate.PENDING, DatasetFetch.not_before <= db_now())
    )
    files = session.scalars(query.order_by(DatasetFetch.not_before, DatasetFile.id).limit(limit)).all()
    progress.take(session, claim, files)
    return [Due(file.id, file.filename) for file in files]


def record(session: Session, claim: jobs.Claim, file_id: int, blob_key: str, size_bytes: int) -> bool:
    """What came is stored and is to be read as a picture; False, and nothing is written, when it is wanted no more.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is None:
        return False
    row.kind, row.blob_key, row.bytes = FileKind.IMAGE, blob_key, size_bytes
    _forget(session, claim.owner, [file_id])
    _tell(session, claim, row)
    return True


def reject(session: Session, claim: jobs.Claim, file_id: int, reason: str) -> None:
    """Nothing can come of it, and why.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    if row is not None:
        row.fate, row.reason = Fate.REJECTED, words(reason)
        _forget(session, claim.owner, [file_id])
        _tell(session, claim, row)


def try_again(session: Session, claim: jobs.Claim, file_id: int, reason: str) -> None:
    """Nothing came of it this time; after so many times it is rejected.

    Raises:
        LeaseLost: another attempt has the job.
    """
    row = _open_row(session, claim, file_id)
    fetch = session.get(DatasetFetch, file_id)
    if row is None or fetch is None:
        return
    fetch.attempts += 1
    if fetch.attempts > len(PAUSES_S):
        reject(session, claim, file_id, f"{reason}; tried {fetch.attempts} times")
        return
    row.reason = words(f"is fetched again soon: {reason}")
    fetch.not_before = db_now() + PAUSES_S[fetch.attempts - 1]
    _tell(session, claim, row)


def wait(session: Session, claim: jobs.Claim, file_ids: Iterable[int], reason: str) -> None:
    """These cannot be stored yet, and why; that is no failure of theirs.

    Raises:
        LeaseLost: another attempt has the job.
    """
    for file_id in file_ids:
        row = _open_row(session, claim, file_id)
        fetch = session.get(DatasetFetch, file_id)
        if row is not None and fetch is not None:
            row.reason, fetch.not_before = words(reason), db_now() + NO_ROOM_PAUSE_S
    session.flush()


def pass_on(session: Session, claim: jobs.Claim) -> None:
    """End the job: what is left is for another ``fetch`` job when it is due, and what came for the ``ingest`` job.

    While more is due at once, what came waits until it is worth a reading; the last pass never leaves it.

    Raises:
        LeaseLost: another attempt has the job.
        CancelRequested: nothing more is to be fetched.
    """
    progress.hold(session, claim)
    left = select(func.min(DatasetFetch.not_before - db_now())).where(
        DatasetFetch.owner == claim.owner, DatasetFetch.dataset_id == claim.subject_id
    )
    pause_s = session.scalar(left)
    jobs.finish(session, claim.job_id, claim.fence)
    if pause_s is not None and not unfinished(session, claim.owner, [jobs.Kind.FETCH], [claim.subject_id]):
        enqueue_once(session, claim.owner, claim.queue, jobs.Kind.FETCH, claim.subject_id, pause_s=pause_s)
    if pause_s is None or pause_s > 0 or _unread(session, claim) >= READ_AT_ONCE:
        enqueue_once(session, claim.owner, claim.queue, jobs.Kind.INGEST, claim.subject_id)


def _open_row(session: Session, claim: jobs.Claim, file_id: int) -> DatasetFile | None:
    jobs.hold(session, claim)
    row = repository.file(session, claim.owner, file_id)
    if row is None or row.fate != Fate.PENDING or row.kind != FileKind.URL or row.dataset_id != claim.subject_id:
        return None
    row.reason = None  # what it may have waited for is over
    return row


def _tell(session: Session, claim: jobs.Claim, row: DatasetFile) -> None:
    session.flush()
    progress.tell(session, claim, IngestPhase.FETCHING, row.filename)


def _there(session: Session, owner: str, dataset_id: str, urls: Sequence[str]) -> dict[str, DatasetFile]:
    """Rows of these addresses; no file that was sent has such a name (contracts/urls.py)."""
    query = select(DatasetFile).where(
        DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id, DatasetFile.parent_id.is_(None)
    )
    parts = (urls[start : start + NAMES_A_QUERY] for start in range(0, len(urls), NAMES_A_QUERY))
    return {row.filename: row for part in parts for row in session.scalars(query.where(DatasetFile.filename.in_(part)))}


def _unread(session: Session, claim: jobs.Claim) -> int:
    query = select(func.count()).where(DatasetFile.owner == claim.owner, DatasetFile.dataset_id == claim.subject_id)
    here = query.where(DatasetFile.fate == Fate.PENDING, DatasetFile.kind != FileKind.URL)
    return session.scalar(here) or 0


def _forget(session: Session, owner: str, file_ids: Sequence[int]) -> None:
    session.execute(delete(DatasetFetch).where(DatasetFetch.owner == owner, DatasetFetch.file_id.in_(file_ids)))


def _came_to_nothing(row: DatasetFile) -> bool:
    """Nothing came, or no picture; one that was taken out of the dataset is put back and not fetched again."""
    return row.fate == Fate.REJECTED and row.image is None


def _take_captions(
    session: Session, rows: dict[str, DatasetFile], new: dict[str, DatasetFile], wanted: Sequence[Wanted]
) -> int:
    """A caption is a row inside its address's; the same one again is not."""
    taken: dict[int, list[DatasetFile]] = {}
    count = 0
    for one in wanted:
        text = clean_caption(one.caption or "")
        if not text:
            continue
        row = new.get(one.url) or rows[one.url]
        if row.id not in taken:
            taken[row.id] = [] if one.url in new else list(repository.children(session, row.owner, row.id))
        earlier = taken[row.id]
        if earlier and earlier[-1].caption == text:
            continue
        said = DatasetFile(
            owner=row.owner,
            dataset_id=row.dataset_id,
            parent_id=row.id,
            child_index=len(earlier),
            filename=f"{one.url}:caption",
            kind=FileKind.CAPTION,
            bytes=len(text.encode()),
            target=one.url,
        )
        take_text(said, text)
        session.add(said)
        earlier.append(said)
        count += 1
    return count
