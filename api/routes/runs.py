"""Training runs: plan, create, watch, cancel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO, Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BeforeValidator, WithJsonSchema
from sse_starlette.sse import EventSourceResponse

from api.deps import PAGE, Cursor, Here, Limit, Owner, Parts
from api.downloads import PIECE_BYTES
from api.errors import problems
from api.removals import RESPONSES, DryRun, Keep, Remove, gone, told
from api.schemas.common import Page
from api.schemas.runs import MetricsOut, PreviewOut, RunDetail, RunOut, preview_out, run_detail, run_out
from api.streams import STREAM, Entry, Reading, answer
from catalog import removing
from catalog.registry.starting import starting_point
from catalog.runs import service
from contracts.failures import FailureCode, PatinaError
from contracts.plan import Plan
from contracts.removal import Subject, choice_of
from contracts.run import FINISHED, RunRequest, RunStatus
from contracts.sizes import parse_bytes

router = APIRouter(prefix="/runs", tags=["runs"])

EVENTS_A_READ = 500
Memory = Annotated[
    int | None,
    BeforeValidator(lambda given: parse_bytes(given) if given else None),
    WithJsonSchema({"type": "string", "examples": ["8GB"]}),
    Query(
        description="What the run must fit: a plan says in `fitting` what makes it, a run that takes more is refused."
    ),
]
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}, "description": "The log so far."}}


@router.post(
    "",
    summary="Create a run, or plan one",
    status_code=201,
    response_model=RunDetail,
    responses={
        200: {"model": Plan, "description": "With `dry_run=true`: what the run would take. Nothing is created."},
        **problems(
            FailureCode.NOT_FOUND,
            FailureCode.UNKNOWN_RECIPE,
            FailureCode.UNKNOWN_BASE,
            FailureCode.BASE_MISMATCH,
            FailureCode.CONFLICT,
            FailureCode.OUT_OF_MEMORY,
        ),
    },
)
def create_run(
    body: RunRequest,
    here: Here,
    owner: Owner,
    response: Response,
    dry_run: Annotated[bool, Query(description="Only validate and plan.")] = False,
    memory: Memory = None,
) -> RunDetail | Response:
    """Everything that is wrong with the request is told at once, before anything is queued."""
    if dry_run:
        with here.database.reading() as session:
            plan = service.plan(session, owner, body, here.settings.recipes, starting_point, memory)
        return JSONResponse(plan.model_dump(mode="json"))
    with here.database.session() as session:
        run = run_detail(service.create(session, owner, body, here.settings.recipes, starting_point, memory))
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return run


@router.get("", summary="List runs")
def list_runs(
    here: Here, owner: Owner, cursor: Cursor = None, limit: Limit = PAGE, status: RunStatus | None = None
) -> Page[RunOut]:
    with here.database.reading() as session:
        found = service.list_runs(session, owner, cursor, limit, status)
        return Page(items=[run_out(run) for run in found.items], next_cursor=found.next_cursor)


@router.get("/{run}", summary="Read a run", responses=problems(FailureCode.NOT_FOUND))
def read_run(run: str, here: Here, owner: Owner) -> RunDetail:
    with here.database.reading() as session:
        return run_detail(service.read(session, owner, run))


@router.post(
    "/{run}/cancel",
    summary="Cancel a run",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def cancel_run(run: str, here: Here, owner: Owner) -> RunDetail:
    """At once while it is queued; at the next step while a worker has it. Twice is once."""
    with here.database.session() as session:
        return run_detail(service.cancel(session, owner, run))


@router.post(
    "/{run}/resume",
    summary="Resume a run that failed or was cancelled",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def resume_run(run: str, here: Here, owner: Owner) -> RunDetail:
    """From its newest checkpoint, with the settings it has; from the beginning where there is none."""
    with here.database.session() as session:
        return run_detail(service.resume(session, owner, run))


@router.post(
    "/{run}/save",
    summary="Save a checkpoint now",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def save_run(run: str, here: Here, owner: Owner) -> RunDetail:
    """At the next step of its trainer, which says so in a `checkpoint` event."""
    with here.database.session() as session:
        return run_detail(service.ask(session, owner, run, "save"))


@router.post(
    "/{run}/preview",
    summary="Make previews now",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def preview_run(run: str, here: Here, owner: Owner) -> RunDetail:
    """At the next step of its trainer: `preview` events, and `GET …/previews`, for a run with prompts."""
    with here.database.session() as session:
        return run_detail(service.ask(session, owner, run, "preview"))


@router.delete(
    "/{run}", summary="Remove a run that has ended", status_code=204, responses=RESPONSES, response_model=None
)
def remove_run(
    run: str, here: Here, owner: Owner, keep: Keep = None, remove: Remove = None, dry_run: DryRun = False
) -> Response:
    """With its events, previews and log. When weights came of it: `keep=history` or `remove=weights`."""
    choice = choice_of(Subject.RUN, keep, remove)
    with here.database.session() as session:
        if dry_run:
            return told(Subject.RUN, removing.came_of_run(session, owner, run))
        removing.remove_run(session, owner, run, choice)
    return gone()


@router.get(
    "/{run}/events",
    summary="Follow a run (server-sent events)",
    response_class=EventSourceResponse,
    responses={
        204: {"description": "The run has ended and Last-Event-ID was its last event: stop reconnecting."},
        **STREAM,
        **problems(FailureCode.NOT_FOUND),
    },
)
async def follow_run(
    run: str, here: Here, owner: Owner, last_seen: Annotated[str | None, Header(alias="Last-Event-ID")] = None
) -> Response:
    """The trainer's events with their number as id (`contracts/events.py`), and `status` events with the run.

    A client that comes back with `Last-Event-ID` goes on where it stopped. The stream ends when the run has.
    """
    return await answer(partial(_read_events, here, owner, run), last_seen, here.settings)


@router.get("/{run}/metrics", summary="Loss curves of a run", responses=problems(FailureCode.NOT_FOUND))
def read_metrics(run: str, here: Here, owner: Owner) -> MetricsOut:
    with here.database.reading() as session:
        found = service.metrics(session, owner, run)
    return MetricsOut(steps=found.steps, held_out=found.held_out)


@router.get("/{run}/previews", summary="Pictures made while training", responses=problems(FailureCode.NOT_FOUND))
def list_previews(run: str, here: Here, owner: Owner) -> Page[PreviewOut]:
    with here.database.reading() as session:
        shown = [preview_out(preview) for preview in service.previews(session, owner, run)]
    return Page(items=shown, next_cursor=None)


@router.get(
    "/{run}/log",
    summary="The trainer's log",
    response_class=StreamingResponse,
    responses={**TEXT, **problems(FailureCode.NOT_FOUND)},
)
def read_log(
    run: str,
    here: Here,
    owner: Owner,
    tail_bytes: Annotated[int | None, Query(ge=1, description="only the last so many bytes")] = None,
) -> Response:
    with here.database.reading() as session:
        key = service.read(session, owner, run).log_key
    if key is None:
        raise PatinaError(FailureCode.NOT_FOUND, "The run has no log yet.", "It has one once a worker started it.")
    log = here.blobs.open(key)
    if tail_bytes is not None:
        log.seek(max(0, here.blobs.size(key) - tail_bytes))
    return StreamingResponse(
        _pieces(log), media_type="text/plain; charset=utf-8", headers={"cache-control": "no-store"}
    )


def _read_events(here: Parts, owner: str, run: str, after: int) -> Reading:
    with here.database.reading() as session:
        found = service.read(session, owner, run)
        rows = service.events(session, owner, run, after, EVENTS_A_READ)
        return Reading(
            entries=[Entry(row.seq, row.type, row.body) for row in rows],
            status=f"{found.status}/{found.reason}",
            status_json=run_out(found).model_dump_json(),
            ended=found.status in FINISHED,
            more=len(rows) == EVENTS_A_READ,
        )


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    with source:
        while piece := source.read(PIECE_BYTES):
            yield piece
