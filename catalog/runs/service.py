"""Runs as their owners use them: plan, create, watch, cancel. Knows nothing about HTTP or processes.

What the worker reports is catalog/runs/progress.py. Everything a run needs is resolved when it is created, and
every problem is reported at once, before anything is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.bases import service as bases
from catalog.bases.models import Base
from catalog.db import new_id
from catalog.job_requests import request_cancel
from catalog.paging import DEFAULT_LIMIT, Page, page
from catalog.runs import feeding, repository
from catalog.runs.feeding import Fed, Problem
from catalog.runs.models import Run, RunEvent, RunPreview, RunVersion
from catalog.runs.recipes import load_recipe
from catalog.runs.status import switch_status
from contracts.config import digest
from contracts.events import EVENT, HeldOut, StepDone
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.objective import misfits
from contracts.plan import Plan, make_plan, step_shape
from contracts.run import FINISHED, RunReason, RunRequest, RunStatus
from contracts.train import TrainConfig, parse_config


@dataclass(frozen=True)
class Metrics:
    """The curves of a run; a step done again after a resume counts with its last value."""

    steps: list[StepDone]
    held_out: list[HeldOut]


StartingPoint = Callable[[Session, str, Base, TrainConfig], str]
"""Which weights ``init_from`` means, as name@version; the registry, which is built on runs, says so."""


def plan(
    session: Session, owner: str, request: RunRequest, recipes_dir: Path, starting_point: StartingPoint | None = None
) -> Plan:
    """What the run would take; creates nothing.

    Raises:
        InvalidInput: every problem at once, by JSON pointer into the request.
        PatinaError: the only problem there is, when it has a code of its own: UNKNOWN_RECIPE, UNKNOWN_BASE,
            NOT_FOUND (dataset or version).
    """
    return _prepare(session, owner, request, recipes_dir, starting_point).plan


def create(
    session: Session, owner: str, request: RunRequest, recipes_dir: Path, starting_point: StartingPoint | None = None
) -> Run:
    """Queue a run.

    Raises:
        InvalidInput, PatinaError: as ``plan``.
    """
    prepared = _prepare(session, owner, request, recipes_dir, starting_point)
    config, fed = prepared.config, prepared.fed
    feeding.hold(session, owner, fed)
    run = Run(
        id=new_id("run"),
        owner=owner,
        name=request.name or f"{request.recipe}-{repository.count_named(session, owner, request.recipe) + 1}",
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


@dataclass(frozen=True)
class _Prepared:
    config: TrainConfig
    base: Base
    fed: list[Fed]
    shape: str
    plan: Plan


def _prepare(
    session: Session, owner: str, request: RunRequest, recipes_dir: Path, starting_point: StartingPoint | None
) -> _Prepared:
    fed, problems = feeding.choose(session, owner, request)
    config = base = None
    try:
        recipe = load_recipe(recipes_dir, request.recipe)
        config = parse_config(recipe.values, request.overrides)
    except PatinaError as error:
        problems.append(Problem("/recipe", error))
    try:
        base = bases.read_ready(session, owner, request.base)
    except PatinaError as error:
        problems.append(Problem("/base", error))
    if config is not None and base is not None:
        errors = misfits(config.loss, bases.description_of(base).denoising)
        problems += [Problem("/recipe", InvalidInput(errors))] if errors else []
    if config is not None and base is not None and config.init_from is not None and starting_point is not None:
        try:
            config = config.model_copy(update={"init_from": starting_point(session, owner, base, config)})
        except PatinaError as error:
            problems.append(Problem("/overrides/init_from", error))
    if problems or config is None or base is None:
        raise _all_at_once(problems, request)
    try:
        summary = feeding.summarise(session, owner, fed, config.data.concept_weights)
    except InvalidInput as error:
        raise _all_at_once([Problem("/recipe", error)], request) from None
    shape = _shape(config, base)
    measured = repository.latest_of_shape(session, owner, shape)
    planned = make_plan(
        config,
        bases.description_of(base),
        summary,
        seconds_per_step=None if measured is None else measured.seconds_per_step,
    )
    return _Prepared(config, base, fed, shape, planned)


def _all_at_once(problems: list[Problem], request: RunRequest) -> PatinaError:
    if len(problems) == 1 and not isinstance(problems[0].error, InvalidInput):
        return problems[0].error
    errors: list[FieldError] = []
    for pointer, problem in problems:
        if isinstance(problem, InvalidInput):
            errors += [_in_request(error, request) for error in problem.errors]
        else:
            errors.append(FieldError(pointer=pointer, message=problem.message))
    hint = next((problem.hint for _, problem in problems if isinstance(problem, InvalidInput)), None)
    return InvalidInput(errors, hint=hint)


def _in_request(error: FieldError, request: RunRequest) -> FieldError:
    """Point at the override that is wrong, or at the recipe when the request does not touch the setting."""
    setting = error.pointer.strip("/").replace("/", ".")
    for dotted in request.overrides:
        if setting == dotted or setting.startswith(f"{dotted}.") or dotted.startswith(f"{setting}."):
            return FieldError(
                pointer=f"/overrides/{dotted.replace('~', '~0').replace('/', '~1')}", message=error.message
            )
    return FieldError(pointer="/recipe", message=f"{setting}: {error.message}" if setting else error.message)


def _shape(config: TrainConfig, base: Base) -> str:
    return digest([base.identity, *step_shape(config)])
