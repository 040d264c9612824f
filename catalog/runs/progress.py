"""What the train worker reports about the run it holds. Knows nothing about subprocesses or files.

Every function takes the claim of the run's ``train`` job: with a lost lease it raises ``LeaseLost`` and nothing is
written, so a worker that was given up can never overwrite its successor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.runs import repository
from catalog.runs.models import Run, RunEvent, RunPreview
from catalog.runs.status import switch_status
from contracts.events import CheckpointSaved, Event, Preview, Progress, Started, StepDone, Tracking
from contracts.failures import FAILURES, FailureCode
from contracts.run import FINISHED, RunReason, RunStatus
from contracts.rundir import Completed, Failed


@dataclass(frozen=True)
class StoredFile:
    """A file in the blob store."""

    blob_key: str
    sha256: str
    bytes: int


def begin(session: Session, claim: jobs.Claim, device: str, *, keeps_directory: bool) -> Run:
    """A worker starts (or takes up again) the run: it is preparing.

    Args:
        keeps_directory: the last attempt was in this run directory and its events.jsonl goes on where
            ``run.events_offset`` says; otherwise that offset becomes 0.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    run.attempt, run.device = claim.attempt, device
    if not keeps_directory:
        run.events_offset = 0
    switch_status(session, run, RunStatus.PREPARING, RunReason.WORKING)
    return run


def no_device(session: Session) -> None:
    """A worker found every device held: whatever run waits, whoever's it is, waits for one and not for a worker."""
    repository.change_reason(session, RunStatus.QUEUED, RunReason.WAITING, RunReason.WAITING_FOR_DEVICE)


def record_events(session: Session, claim: jobs.Claim, events: Sequence[Event], offset: int) -> int:
    """Copy lines of events.jsonl; ``offset`` is the byte after the last of them. Returns the last seq.

    Lines up to an offset that was recorded already are not recorded again, so a worker that is unsure whether a
    commit went through may call it again. The trainer's first word makes the run training; with a checkpoint further
    than any before, attempts that failed do not count any more.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    if offset <= run.events_offset:
        return run.last_seq
    for said in events:
        _follow(session, claim, run, said)
        run.last_seq += 1
        session.add(
            RunEvent(
                run_id=run.id,
                owner=run.owner,
                seq=run.last_seq,
                type=said.type,
                step=said.step,
                body=said.model_dump_json(),
            )
        )
    run.events_offset = offset
    session.flush()
    return run.last_seq


def asked(session: Session, run_id: str) -> tuple[Literal["save", "preview"], ...]:
    """What the run's owner wants of its trainer at the next step; reads alone."""
    save, preview = session.execute(select(Run.save_asked, Run.preview_asked).where(Run.id == run_id)).one()
    return (*(("save",) if save else ()), *(("preview",) if preview else ()))


def passed_on(session: Session, claim: jobs.Claim, wanted: Sequence[Literal["save", "preview"]]) -> None:
    """The trainer has been told.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    run.save_asked = run.save_asked and "save" not in wanted
    run.preview_asked = run.preview_asked and "preview" not in wanted
    session.flush()


def record_preview(session: Session, claim: jobs.Claim, said: Preview, stored: StoredFile) -> None:
    """A preview was stored; the same file again (a step done again) replaces the picture.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    row = repository.preview(session, run.owner, run.id, said.file)
    if row is None:
        row = RunPreview(run_id=run.id, owner=run.owner, file=said.file)
        session.add(row)
    row.step, row.prompt, row.seed = said.step, said.prompt, said.seed
    row.sha256, row.blob_key, row.bytes = stored.sha256, stored.blob_key, stored.bytes
    session.flush()


def record_log(session: Session, claim: jobs.Claim, blob_key: str) -> str | None:
    """The trainer's log so far was stored under this key; returns the key of before.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    before, run.log_key = run.log_key, blob_key
    session.flush()
    return before


def publishing(session: Session, claim: jobs.Claim) -> None:
    """The trainer is done; its weights are being checked and stored.

    Raises:
        LeaseLost: another attempt has it.
    """
    switch_status(session, _held(session, claim), RunStatus.PUBLISHING, RunReason.WORKING)


def complete(session: Session, claim: jobs.Claim, outcome: Completed) -> Run:
    """The weights are registered (in this transaction, by registry.publish): the run has succeeded; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    run.outcome = outcome.model_dump(mode="json")
    run.step, run.loss, run.tracking = outcome.step, outcome.loss_last, outcome.tracking
    run.seconds_per_step = outcome.train_seconds / outcome.step if outcome.step else None
    if run.status in (RunStatus.PREPARING, RunStatus.TRAINING):
        switch_status(session, run, RunStatus.PUBLISHING, RunReason.WORKING)
    switch_status(session, run, RunStatus.SUCCEEDED, RunReason.COMPLETED)
    jobs.finish(session, claim.job_id, claim.fence)
    return run


def fail(session: Session, claim: jobs.Claim, outcome: Failed, pauses_s: Sequence[float] = ()) -> RunStatus:
    """The trainer failed; a retryable failure is tried again until it has failed too often. Ends or requeues the job.

    Args:
        pauses_s: how long it is not tried again after its first failure, its second, and so on.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    run.outcome = outcome.model_dump(mode="json")
    state = None
    if outcome.retryable:
        state = jobs.release(session, claim.job_id, claim.fence, failed=True, pauses_s=pauses_s)
    if state == jobs.JobState.QUEUED:
        switch_status(session, run, RunStatus.QUEUED, RunReason.WORKER_LOST)
        return RunStatus.QUEUED
    if state == jobs.JobState.CANCELLED:
        switch_status(session, run, RunStatus.CANCELLED, RunReason.CANCELLED)
        return RunStatus.CANCELLED
    _note_failure(run, outcome.code, outcome.message, outcome.hint, outcome.reference)
    switch_status(session, run, RunStatus.FAILED, RunReason.FAILED)
    jobs.finish(session, claim.job_id, claim.fence, jobs.JobState.FAILED)
    return RunStatus.FAILED


def give_back(session: Session, claim: jobs.Claim) -> RunStatus:
    """The worker is stopping in good order after a checkpoint: another attempt goes on from there.

    Raises:
        LeaseLost: another attempt has it.
    """
    return _interrupt(session, claim, RunReason.PREEMPTED)


def wait_for_store(session: Session, claim: jobs.Claim, pause_s: float) -> RunStatus:
    """The blob store does not answer or has no room: another attempt goes on after the pause, and no failure counts.

    Raises:
        LeaseLost: another attempt has it.
    """
    return _interrupt(session, claim, RunReason.WAITING_FOR_STORE, pause_s)


def cancelled(session: Session, claim: jobs.Claim) -> None:
    """The worker has stopped the trainer because the owner asked for it; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    run = _held(session, claim)
    switch_status(session, run, RunStatus.CANCELLED, RunReason.CANCELLED)
    jobs.finish(session, claim.job_id, claim.fence, jobs.JobState.CANCELLED)


def after_sweep(session: Session, owner: str, run_id: str, state: jobs.JobState) -> None:
    """The sweep has changed the run's job: queued again, failed or cancelled; the run follows."""
    run = repository.by_id(session, owner, run_id)
    if run is None or run.status in FINISHED:
        return
    if state == jobs.JobState.QUEUED:
        switch_status(session, run, RunStatus.QUEUED, RunReason.WORKER_LOST)
    elif state == jobs.JobState.CANCELLED:
        switch_status(session, run, RunStatus.CANCELLED, RunReason.CANCELLED)
    elif state == jobs.JobState.FAILED:
        words = FAILURES[FailureCode.WORKER_LOST]
        _note_failure(run, FailureCode.WORKER_LOST, words.message, words.hint, None)
        switch_status(session, run, RunStatus.FAILED, RunReason.FAILED)


def _held(session: Session, claim: jobs.Claim) -> Run:
    jobs.hold(session, claim)
    run = repository.by_id(session, claim.owner, claim.subject_id)
    assert run is not None, "a job's run exists as long as the job"
    return run


def _interrupt(session: Session, claim: jobs.Claim, reason: RunReason, pause_s: float = 0) -> RunStatus:
    run = _held(session, claim)
    state = jobs.release(session, claim.job_id, claim.fence, failed=False, pause_s=pause_s)
    if state == jobs.JobState.CANCELLED:
        switch_status(session, run, RunStatus.CANCELLED, RunReason.CANCELLED)
    else:
        switch_status(session, run, RunStatus.QUEUED, reason)
    return RunStatus(run.status)


def _follow(session: Session, claim: jobs.Claim, run: Run, said: Event) -> None:
    if isinstance(said, Started):
        run.steps, run.step = said.steps, said.first_step
        if run.status == RunStatus.PREPARING:
            switch_status(session, run, RunStatus.TRAINING, RunReason(run.reason))
    elif isinstance(said, Progress):
        run.phase = f"{said.phase} {said.done}/{said.total}"
    elif isinstance(said, StepDone):
        run.step, run.loss, run.phase = said.step, said.loss_smooth, None
    elif isinstance(said, Tracking):
        run.tracking = said.where
    elif isinstance(said, CheckpointSaved) and said.step > repository.last_checkpoint(session, run.owner, run.id):
        # Further than ever, and not only than this attempt began: one that begins anew each time is given up.
        jobs.came_on(session, claim.job_id)


def _note_failure(run: Run, code: FailureCode, message: str, hint: str, reference: str | None) -> None:
    run.failure_code, run.failure_message, run.failure_hint, run.failure_reference = code, message, hint, reference
