"""How a request says what shall become of what came of something it removes, and how it is told before."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.responses import JSONResponse

from api.errors import problems
from api.schemas.common import Answer
from contracts.failures import FailureCode
from contracts.removal import CHOICES, Offspring, Subject

Keep = Annotated[str | None, Query(description="`history`: what came of it stays", max_length=64)]
Remove = Annotated[str | None, Query(description="what goes with it, such as `versions,runs,weights`", max_length=64)]
DryRun = Annotated[bool, Query(description="only say what came of it, and what can be chosen")]


class RemovalOut(Answer):
    """What a removal would ask about; nothing came of it when there are no choices."""

    offspring: Offspring
    choices: dict[str, str]
    """Queries that say what shall become of it, and what each means."""


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": RemovalOut, "description": "With `dry_run=true`: what came of it. Nothing is removed."},
    **problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT, FailureCode.HAS_OFFSPRING),
}


def told(subject: Subject, offspring: Offspring) -> Response:
    """The answer to a dry run."""
    choices = {str(choice): meaning for choice, meaning in CHOICES[subject].items()} if offspring else {}
    return JSONResponse(RemovalOut(offspring=offspring, choices=choices).model_dump(mode="json"))


def gone() -> Response:
    """The answer to a removal."""
    return Response(status_code=204)
