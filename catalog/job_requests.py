"""What is asked of jobs by whoever does not do them: to add one, whether there is one, to hurry, to stop, to go on.

Knows nothing about leases and fences (catalog/jobs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from catalog.db import db_now, ring
from catalog.jobs import Job, JobState, Kind, enqueue, returned

FILLING = (Kind.INGEST, Kind.FETCH)
"""Kinds of jobs that bring files into a dataset, their subject."""


def enqueue_once(
    session: Session, owner: str, queue: str, kind: str, subject_id: str, priority: int = 0, pause_s: float = 0
) -> None:
    """Add a job unless one for the same subject waits unclaimed, which will then see what was written here."""
    # The update locks the waiting row, so that it cannot be claimed before this transaction is visible.
    waiting = update(Job).where(
        Job.owner == owner, Job.kind == kind, Job.subject_id == subject_id, Job.state == JobState.QUEUED
    )
    while not returned(session, waiting.values(rung_at=db_now()).returning(Job.id)):
        # Another transaction may add one at the same moment; the index waits for its end and lets one of the two.
        with suppress(IntegrityError), session.begin_nested():
            enqueue(session, owner, queue, kind, subject_id, priority, pause_s)
            return
    ring(session, queue)


def unfinished(session: Session, owner: str, kinds: Sequence[str], subject_ids: Sequence[str]) -> set[str]:
    """Those of the subjects that have a job of one of these kinds waiting or being done."""
    query = select(Job.subject_id).where(
        Job.owner == owner,
        Job.kind.in_(kinds),
        Job.subject_id.in_(subject_ids),
        Job.state.in_([JobState.QUEUED, JobState.LEASED]),
    )
    return set(session.scalars(query))


def hasten(session: Session, owner: str, kind: str, subject_id: str) -> None:
    """Let the subject's waiting job be claimed at once, whatever it waits for."""
    waiting = update(Job).where(
        Job.owner == owner, Job.kind == kind, Job.subject_id == subject_id, Job.state == JobState.QUEUED
    )
    returned(session, waiting.values(not_before=None).returning(Job.id))


def request_cancel(session: Session, owner: str, kind: str, subject_id: str) -> JobState | None:
    """Cancel the subject's job: at once when it waits, through the next heartbeat when a worker has it.

    Returns:
        CANCELLED or LEASED (the worker is told), or None when there is nothing left to cancel.
    """
    mine = (Job.owner == owner, Job.kind == kind, Job.subject_id == subject_id)
    waiting = update(Job).where(*mine, Job.state == JobState.QUEUED)
    over = {"state": JobState.CANCELLED, "cancel_requested_at": db_now(), "finished_at": db_now()}
    if returned(session, waiting.values(over).returning(Job.id)):
        return JobState.CANCELLED
    working = update(Job).where(*mine, Job.state == JobState.LEASED).values(cancel_requested_at=db_now())
    return JobState.LEASED if returned(session, working.returning(Job.id)) else None


def reopen(session: Session, owner: str, kind: str, subject_id: str) -> bool:
    """Queue the subject's job again that has failed or was cancelled; False when there is none.

    Its failures are forgotten and its fence goes on, so that whoever held it before still writes nothing.
    """
    ended = update(Job).where(
        Job.owner == owner,
        Job.kind == kind,
        Job.subject_id == subject_id,
        Job.state.in_([JobState.FAILED, JobState.CANCELLED]),
    )
    again = {
        "state": JobState.QUEUED,
        "failures": 0,
        "cancel_requested_at": None,
        "finished_at": None,
        "not_before": None,
        "rung_at": db_now(),
    }
    queues = returned(session, ended.values(again).returning(Job.queue))
    for (queue,) in queues:
        ring(session, queue)
    return bool(queues)
