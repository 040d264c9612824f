"""The train worker, `celery -A worker.train worker -P threads`: claims runs and supervises trainers. Never loads torch.

One thread for each device of the host. What a trainer does is the trainer's business (attempt.py, launcher.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.jobs import Claim, Queue
from catalog.runs import progress
from catalog.workers import service as workers
from contracts.failures import FAILURES, FailureCode, PatinaError
from contracts.rundir import Completed, Failed, RunDir
from worker import launcher
from worker.attempt import Ending, run_attempt
from worker.doorbell import Duty, Shift, doorbell, new_reference
from worker.lease import PAUSES_AFTER_FAILURE_S, Lease
from worker.processes import end_marked, marked
from worker.publish import publish
from worker.run_leftovers import clear_removed
from worker.settings import WorkerSettings
from worker.space import NoRoom, waiting_when_full
from worker.station import Station, open_station
from worker.sweep import sweep

STORE_PAUSE_S = 30.0
"""How long a run waits for a blob store that does not answer or has no room."""

log = structlog.get_logger(__name__)


class TrainWork:
    """The duties of a train worker, from its start to its end."""

    def __init__(self) -> None:
        self._station: Station | None = None

    def open(self, shift: Shift) -> list[Duty]:
        """Open the station; each device of the host gets a thread that claims runs for it."""
        settings = WorkerSettings()
        station = self._station = open_station("train", settings.devices, settings)
        end_leftovers(station)
        every_s = settings.sweep_s
        return [
            *(Duty(f"train-{index}", lambda: work(station, shift), every_s) for index in range(len(settings.devices))),
            Duty("clear", lambda: clear_removed(station), settings.collect_s, rings=False),
            Duty("sweep", lambda: sweep(station), every_s, rings=False),
        ]

    def close(self) -> None:
        """Leave in good order."""
        if self._station is not None:
            self._station.close()


def work(station: Station, shift: Shift) -> bool:
    """Claim one run together with a device and see it to an end; False when there was none, or the store is away."""
    end_leftovers(station)
    with station.database.session() as session:
        claim = workers.claim_with_device(
            session, Queue.TRAIN, station.worker_id, station.host, station.settings.lease_s
        )
        if claim is None:
            progress.no_device(session)
    if claim is None:
        return False
    log.info("run.claimed", run=claim.subject_id, job=claim.job_id, fence=claim.fence, slot=claim.slot)
    with Lease(station, claim) as lease:
        try:
            _end_older_attempts(station, claim)
            with waiting_when_full():
                settle(station, claim, run_attempt(station, lease, shift.draining))
        except jobs.LeaseLost:
            log.warning("run.lease_lost", run=claim.subject_id, fence=claim.fence)
        except PatinaError as error:
            _fail(station, claim, error.code, error.message, error.hint, FAILURES[error.code].retryable, None)
        except NoRoom as full:
            log.warning("run.no_room", run=claim.subject_id, why=str(full))
            _wait_for_store(station, claim)
            return False
        except Exception:  # the run is tried again, then given up; what it was is in the log alone
            reference = new_reference()
            log.exception("run.failed", run=claim.subject_id, reference=reference)
            if not station.store_answers():
                _wait_for_store(station, claim)
                return False  # hours of training are not given up for it, however long it takes
            words = FAILURES[FailureCode.INTERNAL]
            _fail(station, claim, FailureCode.INTERNAL, words.message, words.hint, True, reference)
    return True


def settle(station: Station, claim: Claim, ending: Ending) -> None:
    """Write how the attempt ended, with the claim's fence.

    Raises:
        LeaseLost: another attempt has the run.
        PatinaError: the weights cannot be published.
    """
    outcome = ending.outcome
    log.info("run.ended", run=claim.subject_id, fence=claim.fence, state=outcome.state if outcome else "silent")
    if ending.cancelled:
        with station.database.session() as session:
            progress.cancelled(session, claim)
    elif isinstance(outcome, Completed):
        publish(station, claim, ending.run_dir, outcome)
    elif isinstance(outcome, Failed):
        with station.database.session() as session:
            progress.fail(session, claim, outcome, PAUSES_AFTER_FAILURE_S)
    elif outcome is not None or ending.draining:
        # Stopped after a checkpoint, or too slow to save one: the next attempt goes on from the newest there is.
        with station.database.session() as session:
            progress.give_back(session, claim)
    else:
        _fail(
            station,
            claim,
            FailureCode.WORKER_LOST,
            "The trainer ended without saying why; the system may have killed it for memory.",
            "Read the end of the run's log. To need less memory: lower batch_size, or turn on gradient_checkpointing.",
            True,
            None,
        )


def end_leftovers(station: Station) -> None:
    """End trainers of this home that no job holds any more: their worker died, and their lease has run out."""
    home = station.settings.home_dir
    lost = {process.attempt for process in marked(home) if not _is_held(station, process.attempt)}
    if not lost:
        return
    ended = end_marked(home, lambda attempt: attempt in lost, max(_grace_s(station, attempt) for attempt in lost))
    log.warning("leftovers.ended", processes=[(process.pid, process.attempt) for process in ended])


def _end_older_attempts(station: Station, claim: Claim) -> None:
    """Nothing of an earlier attempt may write into the run directory beside this one."""
    older = {f"{claim.job_id}.{fence}" for fence in range(claim.fence)}
    grace_s = _grace_s(station, f"{claim.job_id}.{claim.fence}")
    end_marked(station.settings.home_dir, lambda attempt: attempt in older, grace_s)


def _grace_s(station: Station, attempt: str) -> float:
    # An orphan that is told to stop saves a checkpoint, from which the next attempt can go on.
    job = attempt.partition(".")[0]
    with station.database.reading() as session:
        found = session.get(jobs.Job, int(job)) if job.isdecimal() else None
    at_least_s = station.settings.term_grace_s
    if found is None:
        return at_least_s
    return launcher.grace_s(RunDir(station.settings.runs_dir / found.subject_id), at_least_s)


def _is_held(station: Station, attempt: str) -> bool:
    job, _, fence = attempt.partition(".")
    if not (job.isdecimal() and fence.isdecimal()):
        return False
    try:
        with station.database.session() as session:
            jobs.hold(session, Claim(int(job), int(fence), "", "", "", "", 0))
    except jobs.LeaseLost:
        return False
    return True


def _fail(
    station: Station,
    claim: Claim,
    code: FailureCode,
    message: str,
    hint: str,
    retryable: bool,
    reference: str | None,
) -> None:
    failed = Failed(step=0, code=code, message=message, hint=hint, retryable=retryable, reference=reference)
    with _noting(station, claim) as session:
        progress.fail(session, claim, failed, PAUSES_AFTER_FAILURE_S)


def _wait_for_store(station: Station, claim: Claim) -> None:
    with _noting(station, claim) as session:
        progress.wait_for_store(session, claim, STORE_PAUSE_S)


@contextmanager
def _noting(station: Station, claim: Claim) -> Iterator[Session]:
    try:
        with station.database.session() as session:
            yield session
    except (jobs.LeaseLost, SQLAlchemyError) as error:
        # Either it is another attempt's now, or its lease will run out and the sweep takes it up.
        log.warning("run.ending_not_noted", run=claim.subject_id, error=type(error).__name__)


_work = TrainWork()
app = doorbell(Queue.TRAIN, _work.open, _work.close)
