"""Work to be done by a worker: queued rows, claimed with a lease and a fence. Knows nothing about the work.

The row is the truth and the broker only rings. Every claim raises the row's fence; whoever writes with an older
fence changes nothing. Leases are measured by the database's clock. A job whose worker disappears is queued again
by the sweep (catalog/sweep.py), and given up after ``MAX_FAILURES`` between which it has not come further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Index, exists, or_, select, text, true, update
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from catalog.db import Base, Row, db_now, ring

MAX_FAILURES = 3

ALSO_RUNG = {"train": ("train", "generate"), "light": ("light",)}
"""Queues whose workers may have come in vain while a job of this queue held its device or its subject."""

FRESH = text("state = 'queued' AND fence = 0")
"""Nobody has claimed it yet: of a subject's jobs of a kind at most one; others that wait were given back."""


class Queue(StrEnum):
    """Which kind of worker does it."""

    LIGHT = "light"
    TRAIN = "train"
    GENERATE = "generate"


class Kind(StrEnum):
    """What is to be done."""

    INGEST = "ingest"
    FETCH = "fetch"
    TRAIN = "train"
    GENERATE = "generate"
    BASE_ADD = "base_add"


class JobState(StrEnum):
    """Where a job is on its way."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Job(Base):
    """One piece of work; ``subject_id`` is the run, dataset, generation or base it is about."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_claim", "queue", "state", "priority", "id"),
        Index("ix_jobs_subject", "subject_id", "kind", "state"),
        Index("ix_jobs_sweep", "state", "lease_until"),
        Index("ix_jobs_fresh", "owner", "kind", "subject_id", unique=True, sqlite_where=FRESH, postgresql_where=FRESH),
    )

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    queue: Mapped[str]
    kind: Mapped[str]
    subject_id: Mapped[str]
    state: Mapped[str] = mapped_column(default=JobState.QUEUED)
    priority: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    preemptions: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    cancel_requested_at: Mapped[float | None]
    rung_at: Mapped[float] = mapped_column(default=db_now())
    not_before: Mapped[float | None]
    """No worker may claim it earlier."""
    created_at: Mapped[float] = mapped_column(default=db_now())
    finished_at: Mapped[float | None]


@dataclass(frozen=True)
class Claim:
    """A job this worker holds, until its lease runs out; ``slot`` is the device it was given, if any."""

    job_id: int
    fence: int
    owner: str
    queue: str
    kind: str
    subject_id: str
    attempt: int
    slot: int | None = None


@dataclass(frozen=True)
class Heartbeat:
    """The lease goes on."""

    cancel_requested: bool


class HostSlots(Protocol):
    """A host's devices, as seen by a claim (catalog/workers/service.py has the real one)."""

    def take(self, session: Session, owner: str, job_id: int, fence: int) -> int | None:
        """Give a free device to this job; None when there is none."""

    def ask(self, session: Session) -> None:
        """Say that a job waits for a device."""


class LeaseLost(Exception):
    """The job is no longer this worker's: write nothing more, and stop the work."""


def enqueue(
    session: Session, owner: str, queue: str, kind: str, subject_id: str, priority: int = 0, pause_s: float = 0
) -> Job:
    """Add a job and ring its queue after the commit; higher priorities go first, then older jobs.

    For ``pause_s`` nobody may claim it, and nobody is rung for. Where another may wait already, ``enqueue_once`` of
    catalog/job_requests.py is what to call.
    """
    job = Job(owner=owner, queue=queue, kind=kind, subject_id=subject_id, priority=priority)
    if pause_s > 0:
        job.not_before = db_now() + pause_s
    else:
        ring(session, queue)
    session.add(job)
    session.flush()
    return job


def claim(
    session: Session,
    queue: str,
    worker_id: str,
    lease_s: float,
    limit: int = 1,
    host_slots: HostSlots | None = None,
    kind: str | None = None,
) -> list[Claim]:
    """Take up to ``limit`` waiting jobs, best first, of one kind or any.

    With ``host_slots`` each gets a device or is left waiting.
    """
    if host_slots is None:
        return _claim(session, queue, worker_id, lease_s, limit, kind)
    taken: list[Claim] = []
    while len(taken) < limit:
        savepoint = session.begin_nested()
        found = _claim(session, queue, worker_id, lease_s, 1, kind)
        slot = host_slots.take(session, found[0].owner, found[0].job_id, found[0].fence) if found else None
        if not found or slot is None:
            savepoint.rollback()
            if found:
                host_slots.ask(session)
            break
        savepoint.commit()
        taken.append(replace(found[0], slot=slot))
    return taken


def hold(session: Session, claimed: Claim) -> None:
    """Make this transaction the holder's: first line of everything a worker writes about its subject.

    Raises:
        LeaseLost: another attempt has it, or it is over.
    """
    query = select(Job.id).where(*_held(claimed.job_id, claimed.fence)).with_for_update()
    if session.scalar(query) is None:
        raise LeaseLost(f"job {claimed.job_id} is no longer held with fence {claimed.fence}")


def heartbeat(session: Session, job_id: int, fence: int, lease_s: float) -> Heartbeat | None:
    """Prolong the lease and hear whether to stop; None when the lease is lost: stop and write nothing."""
    statement = (
        update(Job)
        .where(*_held(job_id, fence))
        .values(lease_until=db_now() + lease_s)
        .returning(Job.cancel_requested_at)
    )
    rows = returned(session, statement)
    return Heartbeat(cancel_requested=rows[0][0] is not None) if rows else None


def came_on(session: Session, job_id: int) -> None:
    """The holder's work has come further: attempts that failed before do not count any more."""
    session.execute(update(Job).where(Job.id == job_id).values(failures=0))


def finish(session: Session, job_id: int, fence: int, state: str = JobState.DONE) -> bool:
    """End a held job as done, failed or cancelled; False when the lease was lost and nothing changed."""
    statement = (
        update(Job)
        .where(*_held(job_id, fence))
        .values(state=state, lease_until=None, finished_at=db_now())
        .returning(Job.queue)
    )
    rows = returned(session, statement)
    for queue in ALSO_RUNG.get(rows[0][0], ()) if rows else ():
        ring(session, queue)
    return bool(rows)


def release(
    session: Session, job_id: int, fence: int, *, failed: bool, pauses_s: Sequence[float] = (), pause_s: float = 0
) -> JobState | None:
    """Give a held job back: to be queued again, or ended when it was cancelled or failed too often.

    Args:
        failed: whether the work failed (counts towards giving up) or was only interrupted.
        pauses_s: how long nobody claims it after its first failure, its second, and so on.
        pause_s: how long nobody claims it after an interruption.

    Returns:
        The state it is in now, or None when the lease was lost and nothing changed.
    """
    query = select(Job).where(*_held(job_id, fence)).with_for_update()
    job = session.scalar(query, execution_options={"populate_existing": True})
    if job is None:
        return None
    job.failures += int(failed)
    job.preemptions += int(not failed)
    job.lease_until, job.state = None, _after_interruption(job)
    if failed:
        pause_s = pauses_s[min(job.failures, len(pauses_s)) - 1] if pauses_s else 0
    if job.state != JobState.QUEUED:
        job.finished_at = db_now()
    elif pause_s > 0:
        job.not_before = db_now() + pause_s
    else:
        job.rung_at = db_now()
        ring(session, job.queue)
    for queue in ALSO_RUNG.get(job.queue, ()):
        ring(session, queue)
    session.flush()
    return JobState(job.state)


def postpone(session: Session, job_id: int, fence: int) -> None:
    """Give a held job back for later: behind the others and without a ring; with a lost lease nothing changes."""
    later = {"state": JobState.QUEUED, "lease_until": None, "rung_at": db_now(), "priority": Job.priority - 1}
    returned(session, update(Job).where(*_held(job_id, fence)).values(later).returning(Job.id))


def returned(session: Session, statement: Any) -> list[Any]:
    """The rows a statement's RETURNING clause gives."""
    # Rows already loaded in this session are not patched up: callers read again what they need.
    return list(session.execute(statement, execution_options={"synchronize_session": False}).all())


def _claim(session: Session, queue: str, worker_id: str, lease_s: float, limit: int, kind: str | None) -> list[Claim]:
    other = aliased(Job)
    busy = exists().where(
        other.kind == Job.kind, other.subject_id == Job.subject_id, other.state == JobState.LEASED, other.id != Job.id
    )
    best = (
        select(Job.id)
        .where(Job.queue == queue, Job.state == JobState.QUEUED, ~busy)
        .where(or_(Job.not_before.is_(None), Job.not_before <= db_now()))
        .where(Job.kind == kind if kind is not None else true())
        .order_by(Job.priority.desc(), Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Job)
        .cte("best")
    )
    statement = (
        update(Job)
        .where(Job.id.in_(select(best.c.id)), Job.state == JobState.QUEUED)
        .values(
            state=JobState.LEASED,
            fence=Job.fence + 1,
            attempts=Job.attempts + 1,
            lease_owner=worker_id,
            lease_until=db_now() + lease_s,
        )
        .returning(Job.id, Job.fence, Job.owner, Job.queue, Job.kind, Job.subject_id, Job.attempts, Job.priority)
    )
    rows = sorted(returned(session, statement), key=lambda row: (-row.priority, row.id))
    return [Claim(*row[:7]) for row in rows]


def _held(job_id: int, fence: int) -> tuple[ColumnElement[bool], ...]:
    return Job.id == job_id, Job.fence == fence, Job.state == JobState.LEASED


def _after_interruption(job: Job) -> JobState:
    if job.cancel_requested_at is not None:
        return JobState.CANCELLED
    return JobState.FAILED if job.failures >= MAX_FAILURES else JobState.QUEUED
