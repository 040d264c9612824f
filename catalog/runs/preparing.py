"""From a request for a run to all that it needs: configuration, base, versions, plan; every problem at once.

Creates nothing, and knows nothing about jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from catalog.bases import service as bases
from catalog.bases.models import Base
from catalog.runs import feeding, repository
from catalog.runs.feeding import Fed, Problem
from catalog.runs.recipes import load_recipe
from contracts.config import digest
from contracts.failures import FAILURES, FieldError, InvalidInput, PatinaError, dotted, pointer_to
from contracts.lora import MISSPELT_HINT, misspelt
from contracts.memory import adapted_names
from contracts.objective import misfits
from contracts.plan import Plan, fitted, make_plan, step_shape
from contracts.run import RunRequest
from contracts.train import TrainConfig, parse_config

StartingPoint = Callable[[Session, str, Base, TrainConfig], str]
"""Which weights ``init_from`` means, as name@version; the registry, which is built on runs, says so."""


@dataclass(frozen=True)
class Prepared:
    """A request as a run of it would be."""

    config: TrainConfig
    base: Base
    fed: list[Fed]
    shape: str
    plan: Plan


def prepare(
    session: Session,
    owner: str,
    request: RunRequest,
    recipes_dir: Path,
    starting_point: StartingPoint | None,
    memory_bytes: int | None,
) -> Prepared:
    """Find what a run needs and plan it.

    Raises:
        InvalidInput: every problem at once, by JSON pointer into the request.
        PatinaError: the only problem there is, when it has a code of its own.
    """
    fed, problems = feeding.choose(session, owner, request)
    config = base = described = None
    try:
        recipe = load_recipe(recipes_dir, request.recipe)
        config = parse_config(recipe.values, request.overrides)
    except PatinaError as error:
        problems.append(Problem("/recipe", error))
    try:
        base = bases.read_ready(session, owner, request.base)
        described = bases.description_of(base)
    except PatinaError as error:
        problems.append(Problem("/base", error))
    if config is not None and described is not None:
        errors = misfits(config.loss, described.denoising)
        problems += [Problem("/recipe", InvalidInput(errors))] if errors else []
        if config.method == "lora" and (errors := misspelt(config.lora, adapted_names(config, described))):
            problems.append(Problem("/recipe", InvalidInput(errors, hint=MISSPELT_HINT)))
    if config is not None and base is not None and config.init_from is not None and starting_point is not None:
        try:
            config = config.model_copy(update={"init_from": starting_point(session, owner, base, config)})
        except PatinaError as error:
            problems.append(Problem("/overrides/init_from", error))
    if problems or config is None or base is None or described is None:
        raise _all_at_once(problems, request)
    try:
        summary = feeding.summarise(session, owner, fed, config)
    except InvalidInput as error:
        raise _all_at_once([Problem("/recipe", error)], request) from None
    shape = digest([base.identity, *step_shape(config, summary)])
    measured = repository.latest_of_shape(session, owner, shape)
    planned = make_plan(
        config,
        described,
        summary,
        seconds_per_step=None if measured is None else measured.seconds_per_step,
    )
    if memory_bytes is not None:
        fitting = fitted(config, described, summary, memory_bytes)
        planned = planned.model_copy(update={"fitting": fitting})
    return Prepared(config, base, fed, shape, planned)


def _all_at_once(problems: list[Problem], request: RunRequest) -> PatinaError:
    if len(problems) == 1 and not isinstance(problems[0].error, InvalidInput):
        return problems[0].error
    errors: list[FieldError] = []
    for pointer, problem in problems:
        if isinstance(problem, InvalidInput):
            errors += [_in_request(error, request) for error in problem.errors]
        else:
            # What to do about this one alone would be lost with its hint.
            exact = problem.hint != FAILURES[problem.code].hint
            message = f"{problem.message} {problem.hint}" if exact else problem.message
            errors.append(FieldError(pointer=pointer, message=message))
    hint = next((problem.hint for _, problem in problems if isinstance(problem, InvalidInput)), None)
    return InvalidInput(errors, hint=hint)


def _in_request(error: FieldError, request: RunRequest) -> FieldError:
    """Point at the override that is wrong, or at the recipe when the request does not touch the setting."""
    setting = dotted(error.pointer)
    for override in request.overrides:
        inside = setting.startswith(f"{override}.")
        if inside or setting == override or override.startswith(f"{setting}."):
            # Of an override that is a mapping, what of it is wrong: its key may be a glob, so no part of the pointer.
            message = f"{setting[len(override) + 1 :]}: {error.message}" if inside else error.message
            return FieldError(pointer=pointer_to(["overrides", override]), message=message)
    return FieldError(pointer="/recipe", message=f"{setting}: {error.message}" if setting else error.message)
