"""The sweep: what lost its worker is queued again or given up, and its subject follows in the same transaction.

Any process may sweep at any time, several at once too: every step is a guarded update. Each job is taken up under a
savepoint of its own, so that one whose subject cannot follow keeps no other waiting. Knows nothing about the broker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, select, true, update
from sqlalchemy.orm import Session

from catalog.bases import service as bases
from catalog.datasets import ingests
from catalog.db import db_now, ring
from catalog.generations import service as generations
from catalog.job_requests import FILLING
from catalog.jobs import ALSO_RUNG, MAX_FAILURES, Job, JobState, Kind, returned
from catalog.runs import progress as runs
from catalog.workers import service as workers
from contracts.failures import FAILURES, FailureCode

log = structlog.get_logger(__name__)

RING_AGAIN_AFTER_S = 30.0


@dataclass(frozen=True)
class JobRef:
    """A job the sweep changed."""

    job_id: int
    owner: str
    queue: str
    kind: str
    subject_id: str


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did; ``rung`` are the queues whose workers are told after the commit."""

    requeued: tuple[JobRef, ...]
    failed: tuple[JobRef, ...]
    cancelled: tuple[JobRef, ...]
    rung: tuple[str, ...]


def sweep(session: Session, ring_again_after_s: float = RING_AGAIN_AFTER_S) -> SweepReport:
    """Queue again what lost its worker, give up what failed too often, and ring for what nobody came for."""
    expired = and_(Job.state == JobState.LEASED, Job.lease_until < db_now())
    taken: dict[JobState, list[JobRef]] = {JobState.CANCELLED: [], JobState.FAILED: [], JobState.QUEUED: []}
    for job_id in session.scalars(select(Job.id).where(expired).order_by(Job.id)).all():
        try:
            with session.begin_nested():
                for ref, state in _take_up(session, and_(expired, Job.id == job_id)):
                    taken[state].append(ref)
        except Exception:  # whatever is wrong with one subject, the jobs of others are taken up
            log.exception("sweep.job_left", job=job_id)
    cancelled, failed, requeued = map(tuple, taken.values())
    quiet = and_(Job.state == JobState.QUEUED, Job.rung_at < db_now() - ring_again_after_s)
    forgotten = _change(session, quiet, {"rung_at": db_now()})
    ended = {ref.queue for ref in (*cancelled, *failed, *requeued)}
    queues = {ref.queue for ref in (*requeued, *forgotten)}
    queues |= {other for queue in ended for other in ALSO_RUNG.get(queue, ())}
    for queue in sorted(queues):
        ring(session, queue)
    return SweepReport(requeued, failed, cancelled, tuple(sorted(queues)))


def give_up_dead_workers(session: Session, host: str, boot_id: str, alive: Callable[[int], bool]) -> tuple[str, ...]:
    """End at once the leases of this host's workers whose process is gone; the next sweep takes up their jobs.

    Without it a worker that starts after a crash would wait for leases nobody will ever prolong.
    """
    gone = workers.forget_dead_workers(session, host, boot_id, alive)
    held = and_(Job.state == JobState.LEASED, Job.lease_owner.in_(gone))
    _change(session, held, {"lease_until": 0.0})
    return tuple(gone)


def _take_up(session: Session, lost: ColumnElement[bool]) -> list[tuple[JobRef, JobState]]:
    """End or queue again a job that lost its worker, and let its subject follow; nothing when it has been taken up."""
    counted = {"failures": Job.failures + 1, "lease_until": None}
    over = {**counted, "finished_at": db_now()}
    for which, state, values in (
        (Job.cancel_requested_at.is_not(None), JobState.CANCELLED, over),
        (Job.failures + 1 >= MAX_FAILURES, JobState.FAILED, over),
        (true(), JobState.QUEUED, {**counted, "rung_at": db_now()}),
    ):
        refs = _change(session, and_(lost, which), {**values, "state": state})
        for ref in refs:
            _follow(session, ref, state)
        if refs:
            return [(ref, state) for ref in refs]
    return []


def _change(session: Session, which: ColumnElement[bool], values: dict[str, Any]) -> tuple[JobRef, ...]:
    statement = update(Job).where(which).values(values)
    rows = returned(session, statement.returning(Job.id, Job.owner, Job.queue, Job.kind, Job.subject_id))
    return tuple(JobRef(*row) for row in rows)


def _follow(session: Session, ref: JobRef, state: JobState) -> None:
    if ref.kind == Kind.TRAIN:
        runs.after_sweep(session, ref.owner, ref.subject_id, state)
    elif ref.kind == Kind.GENERATE:
        generations.after_sweep(session, ref.owner, ref.subject_id, state)
    elif ref.kind in FILLING:
        ingests.after_job(session, ref.owner, ref.subject_id, state, ref.kind)  # blobs left behind are the collector's
    elif ref.kind == Kind.BASE_ADD and state == JobState.FAILED:
        words = FAILURES[FailureCode.WORKER_LOST]
        bases.mark_failed(session, ref.owner, ref.subject_id, FailureCode.WORKER_LOST, words.message)
