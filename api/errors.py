"""Every error the API answers, as RFC 9457 problem+json; the only place that knows HTTP statuses of failures.

Knows nothing about routes. A database that others keep locked becomes a 503 that says when to come again; what nobody
foresaw becomes a 500 with a reference id, whose text and trace go to the log alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catalog.db import others_hold_it
from contracts.failures import FAILURES, FailureCode, FieldError, InvalidInput, PatinaError, pointer_to
from contracts.removal import HasOffspring, Offspring

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
PROBLEM_SCHEMA = "#/components/schemas/Problem"

HEADERS: dict[FailureCode, dict[str, str]] = {
    FailureCode.UNAUTHENTICATED: {"WWW-Authenticate": "Bearer"},
    FailureCode.DATABASE_BUSY: {"Retry-After": "5"},
}

STATUS: dict[FailureCode, int] = {
    FailureCode.INVALID_INPUT: 422,
    FailureCode.NOT_FOUND: 404,
    FailureCode.METHOD_NOT_ALLOWED: 405,
    FailureCode.CONFLICT: 409,
    FailureCode.HAS_OFFSPRING: 409,
    FailureCode.PRECONDITION_FAILED: 412,
    FailureCode.PRECONDITION_REQUIRED: 428,
    FailureCode.FORBIDDEN_ORIGIN: 403,
    FailureCode.UNAUTHENTICATED: 401,
    FailureCode.UNSUPPORTED_MEDIA_TYPE: 415,
    FailureCode.TOO_LARGE: 413,
    FailureCode.STORAGE_FULL: 507,
    FailureCode.BAD_UPLOAD_HEADERS: 400,
    FailureCode.UNSUPPORTED_PROTOCOL: 412,
    FailureCode.CHECKSUM_MISMATCH: 460,
    FailureCode.NOT_A_ZIP: 422,
    FailureCode.EMPTY_DATASET: 409,
    FailureCode.DOUBTFUL_DATASET: 409,
    FailureCode.UNFINISHED_INGEST: 409,
    FailureCode.UNKNOWN_RECIPE: 422,
    FailureCode.UNKNOWN_BASE: 422,
    FailureCode.BASE_UNREADABLE: 422,
    FailureCode.BASE_MISMATCH: 409,
    FailureCode.DATASET_UNREADABLE: 422,
    FailureCode.WEIGHTS_UNREADABLE: 422,
    FailureCode.CHECKPOINT_MISMATCH: 409,
    FailureCode.NAN_LATENT: 500,
    FailureCode.NAN_LOSS: 500,
    FailureCode.OUT_OF_MEMORY: 507,
    FailureCode.DISK_FULL: 507,
    FailureCode.WORKER_LOST: 500,
    FailureCode.CANCELLED: 409,
    FailureCode.BROKER_UNAVAILABLE: 503,
    FailureCode.DATABASE_BUSY: 503,
    FailureCode.PORT_IN_USE: 500,
    FailureCode.HOME_UNUSABLE: 503,
    FailureCode.ALREADY_RUNNING: 409,
    FailureCode.SERVER_UNREACHABLE: 503,
    FailureCode.INTERNAL: 500,
}
"""HTTP status of each failure. Those of the trainer mostly appear inside a run that is read with 200."""


class Problem(BaseModel):
    """What every error answer looks like."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """``urn:patina:failure:CODE``."""
    title: str
    """The code's fixed sentence."""
    status: int
    detail: str
    """What happened this time."""
    code: FailureCode
    """Stable name to branch on."""
    hint: str
    """What to do next."""
    errors: list[FieldError] = []
    """Every wrong field at once: JSON pointer into the body, or /query/NAME, /path/NAME, /header/NAME."""
    reference: str | None = None
    """Finds the log entry of an unexpected error."""
    offspring: Offspring | None = None
    """With `has_offspring`: what came of what was to be removed."""
    choices: dict[str, str] | None = None
    """With `has_offspring`: queries that say what shall become of it, and what each means."""


def problems(*codes: FailureCode) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for the failures a route can answer besides those every route can."""
    listed: dict[int, list[str]] = {}
    for code in codes:
        listed.setdefault(STATUS[code], []).append(f"`{code}`: {FAILURES[code].message}")
    return {
        status: {"description": " ".join(words), "content": {MEDIA_TYPE: {"schema": {"$ref": PROBLEM_SCHEMA}}}}
        for status, words in sorted(listed.items())
    }


def problem_response(error: PatinaError, *, reference: str | None = None) -> JSONResponse:
    """The answer to a refusal or failure."""
    problem = Problem(
        type=f"urn:patina:failure:{error.code}",
        title=FAILURES[error.code].message,
        status=STATUS[error.code],
        detail=error.message,
        code=error.code,
        hint=error.hint,
        errors=list(error.errors) if isinstance(error, InvalidInput) else [],
        reference=reference,
        offspring=error.offspring if isinstance(error, HasOffspring) else None,
        choices=error.choices if isinstance(error, HasOffspring) else None,
    )
    return _answer(problem, HEADERS.get(error.code, {}))


def unexpected(error: BaseException, doing: str) -> JSONResponse:
    """The answer to what nobody foresaw: the log gets the trace, the user a reference to it, or may try again."""
    if others_hold_it(error):
        log.warning("database_busy", doing=doing, error=repr(error.__cause__))
        return problem_response(PatinaError(FailureCode.DATABASE_BUSY))
    reference = secrets.token_hex(6)
    log.error("unexpected_error", reference=reference, doing=doing, exc_info=error)
    failure = PatinaError(
        FailureCode.INTERNAL, hint=f"Quote reference {reference} to whoever runs the server; its log has the details."
    )
    return problem_response(failure, reference=reference)


def install(app: FastAPI) -> None:
    """Answer every error raised inside a route as a problem."""

    @app.exception_handler(PatinaError)
    def _refused(_request: Request, error: PatinaError) -> JSONResponse:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(InvalidInput([_field_error(e) for e in error.errors()]))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        return _from_http(request, error)


class ProblemMiddleware:
    """Outermost layer: failures raised by the layers inside it, foreseen or not, become problems."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except PatinaError as error:
            if started:
                raise
            await problem_response(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets a reference to it
            answer = unexpected(error, f"{scope['method']} {scope['path']}")
            if not started:
                await answer(scope, receive, send)


def _from_http(request: Request, error: HTTPException) -> JSONResponse:
    if isinstance(error.__cause__, PatinaError):  # raised by a middleware while FastAPI read the body
        return problem_response(error.__cause__)
    if error.status_code == 405:
        failure = PatinaError(FailureCode.METHOD_NOT_ALLOWED, f"{request.method} is not possible on this address.")
    elif error.status_code == 404:
        failure = PatinaError(FailureCode.NOT_FOUND, f"There is nothing at {request.url.path}.", "See /docs.")
    elif error.status_code < 500:
        failure = InvalidInput([], "The request cannot be read.", "Send JSON as described under /docs.")
    else:
        return unexpected(error, f"{request.method} {request.url.path}")
    answer = problem_response(failure)
    answer.headers.update(error.headers or {})
    return answer


def _field_error(error: Mapping[str, Any]) -> FieldError:
    where, *path = error["loc"]
    if error["type"] == "json_invalid":
        return FieldError(pointer="", message=f"not JSON: {error['ctx']['error']} at character {path[0]}")
    if error["type"] == "extra_forbidden":
        message = "there is no such field; check the spelling"
    else:
        message = str(error["msg"]).removeprefix("Value error, ")
    return FieldError(pointer=pointer_to(path if where == "body" else [where, *path]), message=message)


def _answer(problem: Problem, headers: Mapping[str, str]) -> JSONResponse:
    return JSONResponse(
        problem.model_dump(mode="json", exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=dict(headers),
    )
