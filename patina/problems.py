"""Failures as problem JSON and back: the same document the API answers, the command prints and a child hands up.

Knows nothing about HTTP or terminals.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.failures import FAILURES, FailureCode, FieldError, InvalidInput, PatinaError
from contracts.removal import HasOffspring, Offspring


def to_problem(error: PatinaError) -> dict[str, Any]:
    """The failure as an RFC 9457 document."""
    problem: dict[str, Any] = {
        "type": f"urn:patina:failure:{error.code}",
        "title": FAILURES[error.code].message,
        "detail": error.message,
        "code": str(error.code),
        "hint": error.hint,
    }
    if isinstance(error, InvalidInput):
        problem["errors"] = [field.model_dump() for field in error.errors]
    if isinstance(error, HasOffspring):
        problem |= {"offspring": error.offspring.model_dump(mode="json"), "choices": error.choices}
    return problem


def from_problem(problem: Mapping[str, Any]) -> PatinaError:
    """The failure a document speaks of; a code this version does not know is an internal one with its words."""
    known = problem.get("code") in set(FailureCode)
    code = FailureCode(problem["code"]) if known else FailureCode.INTERNAL
    message = str(problem.get("detail") or problem.get("title") or "") or None
    hint = str(problem.get("hint") or "") or None
    errors = [
        FieldError(pointer=str(field.get("pointer", "")), message=str(field.get("message", "")))
        for field in problem.get("errors") or ()
        if isinstance(field, Mapping)
    ]
    if code is FailureCode.INVALID_INPUT:
        return InvalidInput(errors, message, hint)
    if code is FailureCode.HAS_OFFSPRING and message and hint:
        offspring = Offspring.model_validate(problem.get("offspring") or {})
        return HasOffspring(offspring, problem.get("choices") or {}, message, hint)
    return PatinaError(code, message, hint)


def unexpected(error: BaseException) -> PatinaError:
    """A failure nobody foresaw: the trace goes to a file, the user gets its name."""
    reference = secrets.token_hex(4)
    report = Path(tempfile.gettempdir()) / f"patina-{reference}.log"
    report.write_text("".join(traceback.format_exception(error)))
    return PatinaError(FailureCode.INTERNAL, None, f"Reference {reference}: the details are in {report}.")


def as_json(value: Any) -> str:
    """One document, readable and in UTF-8."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
