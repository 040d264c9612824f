"""Runs as their owners use them: plan, create, watch, cancel, resume. Knows nothing about HTTP or processes.

What the worker reports is catalog/runs/progress.py. Everything a run needs is resolved when it is created, and
every problem is reported at once, before anything is queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.db import new_id
from catalog.job_requests import reopen, request_cancel
from catalog.paging import DEFAULT_LIMIT, Page, page
from catalog.runs import feeding, repository
from catalog.runs.models import Run, RunEvent, RunPreview, RunVersion
from catalog.runs.preparing import StartingPoint, prepare
from catalog.runs.status import switch_status
from contracts.events import EVENT, HeldOut, StepDone
from contracts.failures import FailureCode, PatinaError
from contracts.fitting import does_not_fit
from contracts.plan import Plan
from contracts.run import FINISHED, RunReason, RunRequest, RunStatus
from contracts.train import TrainConfig


@dataclass(frozen=True)
class Metrics:
    """The curves of a run; a step done again after a resume counts with its last value."""

    steps: list[StepDone]
    held_out: list[HeldOut]


def plan(
    session: Session,
    owner: str,
    request: RunRequest,
    recipes_dir: Path,
    starting_point: StartingPoint | None = None,
    memory_bytes: int | None = None,
) -> Plan:
    """What the run would take; creates nothing.

    Args:
        memory_bytes: the plan says what makes the run fit it, unless it does.

    Raises:
        InvalidInput: every problem at once, by JSON pointer into the request.
        PatinaError: the only problem there is, when it has a code of its own: UNKNOWN_RECIPE, UNKNOWN_BASE,
            NOT_FOUND (dataset or version).
    """
    return prepare(session, owner, request, recipes_dir, starting_point, memory_bytes).plan


def create(
    session: Session,
    owner: str,
    request: RunRequest,
    recipes_dir: Path,
    starting_point: StartingPoint | None = None,
    memory_bytes: int | None = None,
) -> Run:
    """Queue a run.

    Args:
        memory_bytes: a run that takes more is refused.

    Raises:
        InvalidInput, PatinaError: as ``plan``; OUT_OF_MEMORY, with what makes the run fit.
    """
    prepared = prepare(session, owner, request, recipes_dir, starting_point, memory_bytes)
    config, fed = prepared.config, prepared.fed
    if memory_bytes is not None and prepared.plan.fitting is not None:
        raise does_not_fit(prepared.plan.memory_total, memory_bytes, prepared.plan.fitting)
    feeding.hold(session, owner, {one.version.id: one.described for one in fed})
    run = Run(
        id=new_id("run"),
        owner=owner,
        name=request.name or repository.free_name(session, owner, request.recipe),
        recipe=request.recipe,
        overrides=dict(request.overrides),
        config=config.model_dump(mode="json"),
        config_digest=config.digest(),
        plan=prepared.plan.model_dump(mode="json"),
        dataset_id=fed[0].version.dataset_id,
        version_id=fed[0].version.id,
        dataset_name=fed[0].dataset_name,
        dataset_version=fed[0].version.number,
        dataset_digest=feeding.digest_of(fed),
        datasets=[one.described for one in fed],
        base_id=prepared.base.id,
        base_name=prepared.base.name,
        base_identity=prepared.base.identity,
        shape=prepared.shape,
        steps=config.steps,
    )
    session.add(run)
    session.flush()
    session.add_all(RunVersion(owner=owner, run_id=run.id, version_id=one.version.id) for one in fed)
    jobs.enqueue(session, owner, jobs.Queue.TRAIN, jobs.Kind.TRAIN, run.id)
    return run


def list_runs(
    session: Session, owner: str, cursor: str | None = None, limit: int = DEFAULT_LIMIT, status: str | None = None
) -> Page[Run]:
    """An owner's runs, newest first; of one status when it is given."""
    query = repository.owned(owner)
    return page(session, query if status is None else query.where(Run.status == status), Run, cursor, limit)


def unfinished(session: Session, owner: str) -> Sequence[Run]:
    """An owner's runs that have not ended."""
    return repository.unfinished(session, owner)


def read(session: Session, owner: str, run_id: str) -> Run:
    """One run.

    Raises:
        PatinaError: NOT_FOUND.
    """
    run = repository.by_id(session, owner, run_id)
    if run is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"There is no run '{run_id}'.")
    return run


def cancel(session: Session, owner: str, run_id: str) -> Run:
    """Cancel: at once while it is queued, at the next step while a worker has it. Twice is once.

    Raises:
        PatinaError: NOT_FOUND, or CONFLICT when it has succeeded or failed.
    """
    run = read(session, owner, run_id)
    if run.status == RunStatus.CANCELLED:
        return run
    if run.status in FINISHED:
        raise PatinaError(FailureCode.CONFLICT, f"The run has {run.status}; there is nothing to cancel.")
    left = request_cancel(session, owner, jobs.Kind.TRAIN, run.id)
    run = read(session, owner, run_id)
    if left == jobs.JobState.CANCELLED:
        switch_status(session, run, RunStatus.CANCELLED, RunReason.CANCELLED)
    elif left == jobs.JobState.LEASED:
        switch_status(session, run, RunStatus(run.status), RunReason.CANCELLING)
    return run


def resume(session: Session, owner: str, run_id: str) -> Run:
    """Queue a run again that failed or was cancelled: it goes on from the newest checkpoint where it was trained.

    Raises:
        PatinaError: NOT_FOUND, or CONFLICT when it did not end so, or what feeds it has been removed.
    """
    run = read(session, owner, run_id)
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        hint = "Only a run that failed or was cancelled can go on."
        if run.status == RunStatus.SUCCEEDED:
            hint = "To train on, create a run that starts from its weights: init_from=NAME@VERSION."
        raise PatinaError(FailureCode.CONFLICT, f"The run is {run.status}; there is nothing to resume.", hint)
    described = {one["digest"]: one for one in run.datasets}
    versions = repository.versions(session, owner, run.id)
    feeding.hold(session, owner, {version_id: described[digest] for version_id, digest in versions})
    if not reopen(session, owner, jobs.Kind.TRAIN, run.id):
        raise PatinaError(FailureCode.CONFLICT, "The run is still being ended.", "Try again in a moment.")
    run.failure_code = run.failure_message = run.failure_hint = run.failure_reference = None
    run.save_asked = run.preview_asked = False
    switch_status(session, run, RunStatus.QUEUED, RunReason.WAITING)
    return run


def ask(session: Session, owner: str, run_id: str, what: Literal["save", "preview"]) -> Run:
    """Ask the trainer for a checkpoint or for previews at its next step. Twice before that step is once.

    Raises:
        PatinaError: NOT_FOUND, or CONFLICT when it is not training.
    """
    run = read(session, owner, run_id)
    if run.status != RunStatus.TRAINING:
        raise PatinaError(
            FailureCode.CONFLICT, f"The run is {run.status}, not training.", "Ask again while its status is training."
        )
    if what == "save":
        run.save_asked = True
    else:
        run.preview_asked = True
    session.flush()
    return run


def events(session: Session, owner: str, run_id: str, after_seq: int = 0, limit: int = 500) -> Sequence[RunEvent]:
    """Events after ``after_seq`` in order: ``event.seq`` is the SSE id, ``event.body`` the JSON.

    Raises:
        PatinaError: NOT_FOUND.
    """
    return repository.events(session, owner, read(session, owner, run_id).id, after_seq, limit)


def metrics(session: Session, owner: str, run_id: str) -> Metrics:
    """The loss curves.

    Raises:
        PatinaError: NOT_FOUND.
    """
    read(session, owner, run_id)
    steps: dict[int, StepDone] = {}
    held_out: dict[int, HeldOut] = {}
    for row in repository.events_of_types(session, owner, run_id, ["step", "held_out"]):
        said = EVENT.validate_json(row.body)
        if isinstance(said, StepDone):
            steps[said.step] = said
        elif isinstance(said, HeldOut):
            held_out[said.step] = said
    return Metrics([steps[step] for step in sorted(steps)], [held_out[step] for step in sorted(held_out)])


def previews(session: Session, owner: str, run_id: str) -> Sequence[RunPreview]:
    """Pictures made while training, by step; served as images by ``sha256``.

    Raises:
        PatinaError: NOT_FOUND.
    """
    return repository.previews(session, owner, read(session, owner, run_id).id)


def find_preview(session: Session, owner: str, sha256: str) -> str | None:
    """Blob key of a preview by the hash of its file, or None."""
    found = repository.preview_by_hash(session, owner, sha256)
    return None if found is None else found.blob_key


def fed_by(session: Session, owner: str, run_id: str) -> list[tuple[str, float]]:
    """The id of each version that feeds a run and its weight, in the order they were named.

    Raises:
        PatinaError: NOT_FOUND.
    """
    run = read(session, owner, run_id)
    ids = {digest: version_id for version_id, digest in repository.versions(session, owner, run.id)}
    return [(ids[one["digest"]], one["weight"]) for one in run.datasets]


def left_by_removal(session: Session, run_ids: Sequence[str]) -> tuple[set[str], set[str]]:
    """Of runs a worker has directories of, whoever's they are: those removed, and those that ended and were fed by a
    version that is withdrawn."""
    return repository.removed_among(session, run_ids), repository.ended_on_withdrawn(session, run_ids)


def config_of(run: Run) -> TrainConfig:
    """The run's configuration."""
    return TrainConfig.model_validate(run.config)
