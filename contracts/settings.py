"""What is wrong with PATINA_* variables, in the same words whichever process finds it; and what waiting threads do."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from contracts.failures import FieldError, InvalidInput
from contracts.mistakes import field_errors

PREFIX = "PATINA_"


def waiting_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a process that computes on the CPU, unless it says so itself: how long threads
    that wait for each other spin before they give their core away.

    Left alone, OpenMP's spin for milliseconds; when others want the cores too, a step of the demo base took 80 times as
    long. Without any spinning it takes 1.6 times as long on a quiet machine (docs/log.md, 2026-11-27). Read by the
    library when it is loaded, so it must be in the environment before torch is.
    """
    said = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys()
    return {} if said else {"GOMP_SPINCOUNT": "30000"}


def unusable(error: ValidationError) -> InvalidInput:
    """The failure of settings read from the environment: every variable that cannot be used, by its name."""
    named = [FieldError(pointer=_as_variable(e.pointer), message=e.message) for e in field_errors(error)]
    return InvalidInput(named, "The settings cannot be used.", "Correct the variables; see docs/settings.md.")


def as_document(failure: InvalidInput) -> str:
    """The failure as the JSON document a process hands to the one that asked."""
    errors = [field.model_dump() for field in failure.errors]
    told = {"code": str(failure.code), "detail": failure.message, "hint": failure.hint, "errors": errors}
    return json.dumps(told)


def _as_variable(pointer: str) -> str:
    first, _, rest = pointer.removeprefix("/").partition("/")
    return f"/{PREFIX}{first.upper()}" + (f"/{rest}" if rest else "") if first else "/"
