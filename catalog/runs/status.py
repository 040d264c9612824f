"""The one place where a run changes its status. Knows nothing about who asks for it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from catalog.db import db_now
from catalog.runs.models import Run
from contracts.failures import FailureCode, PatinaError
from contracts.run import FINISHED, RunReason, RunStatus

_ENDS = {RunStatus.FAILED, RunStatus.CANCELLED}
ALLOWED: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.PREPARING, *_ENDS}),
    RunStatus.PREPARING: frozenset({RunStatus.QUEUED, RunStatus.TRAINING, RunStatus.PUBLISHING, *_ENDS}),
    RunStatus.TRAINING: frozenset({RunStatus.QUEUED, RunStatus.PUBLISHING, *_ENDS}),
    RunStatus.PUBLISHING: frozenset({RunStatus.QUEUED, RunStatus.SUCCEEDED, *_ENDS}),
    RunStatus.SUCCEEDED: frozenset(),
    RunStatus.FAILED: frozenset({RunStatus.QUEUED}),
    RunStatus.CANCELLED: frozenset({RunStatus.QUEUED}),
}
"""Back to queued: the worker was lost or stopped, or the owner resumes the run, and another attempt follows."""


def switch_status(session: Session, run: Run, status: RunStatus, reason: RunReason) -> None:
    """Change a run's status and say why; the same status again changes only the reason.

    Raises:
        PatinaError: CONFLICT: that status does not follow from the one it has.
    """
    current = RunStatus(run.status)
    if status != current and status not in ALLOWED[current]:
        raise PatinaError(FailureCode.CONFLICT, f"A run that is {current} cannot become {status}.")
    run.status, run.reason = status, reason
    if status == RunStatus.PREPARING and run.started_at is None:
        run.started_at = db_now()
    if status not in FINISHED:
        run.finished_at = None
    elif run.finished_at is None:
        run.finished_at = db_now()
    session.flush()
    session.refresh(run, ["started_at", "finished_at"])
