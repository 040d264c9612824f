"""Generations: ask for pictures, wait for them, cancel."""

from __future__ import annotations

import contextlib
import re
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from api.deps import Here, Owner, Parts
from api.errors import problems
from api.schemas.generations import GenerationOut, generation_out
from catalog.generations import service
from contracts.failures import FailureCode, PatinaError
from contracts.generate import GenerationRequest

router = APIRouter(prefix="/generations", tags=["generations"])

WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9}(?:\.\d{1,3})?)"?\s*(?:[;,]|$)', re.IGNORECASE)


@router.post(
    "",
    summary="Generate pictures",
    status_code=202,
    responses={
        200: {"model": GenerationOut, "description": "With `Prefer: wait=N`: it ended in time."},
        **problems(FailureCode.NOT_FOUND, FailureCode.UNKNOWN_BASE, FailureCode.BASE_MISMATCH),
    },
)
async def create_generation(
    body: GenerationRequest,
    request: Request,
    response: Response,
    here: Here,
    owner: Owner,
    prefer: Annotated[str | None, Header(description="`wait=N` holds the answer for up to N seconds")] = None,
) -> GenerationOut:
    """Base, weights, size and seed are resolved now; later versions change nothing.

    A client that hangs up while it waits cancels the generation, since nobody was told its id.
    """
    made = await run_in_threadpool(_create, here, owner, body)
    response.headers["Location"] = f"/api/v1/generations/{made.id}"
    wait_s = min(preferred_wait_s(prefer), here.settings.max_wait_s)
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
        made = await _wait(request, here, owner, made, wait_s)
        response.status_code = 200 if made.status in service.FINISHED else 202
    return made


@router.get("/{generation}", summary="Read a generation", responses=problems(FailureCode.NOT_FOUND))
def read_generation(generation: str, here: Here, owner: Owner) -> GenerationOut:
    with here.database.reading() as session:
        return generation_out(service.read(session, owner, generation))


@router.post(
    "/{generation}/cancel",
    summary="Cancel a generation",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def cancel_generation(generation: str, here: Here, owner: Owner) -> GenerationOut:
    """At once while it is queued; at the next step while the engine has it. Twice is once."""
    with here.database.session() as session:
        service.cancel(session, owner, generation)
        return generation_out(service.read(session, owner, generation))


def preferred_wait_s(prefer: str | None) -> float:
    """Seconds of a ``Prefer: wait=N`` header (RFC 7240); 0 without one."""
    match = WAIT.search(prefer or "")
    return float(match[1]) if match else 0.0


def _create(here: Parts, owner: str, body: GenerationRequest) -> GenerationOut:
    with here.database.session() as session:
        generation = service.create(session, owner, body)
        return generation_out(service.read(session, owner, generation.id))


async def _wait(request: Request, here: Parts, owner: str, made: GenerationOut, wait_s: float) -> GenerationOut:
    deadline = anyio.current_time() + wait_s
    while made.status not in service.FINISHED and anyio.current_time() < deadline:
        if await request.is_disconnected():
            await run_in_threadpool(_abandon, here, owner, made.id)
            break
        await anyio.sleep(min(here.settings.poll_s, wait_s))
        made = await run_in_threadpool(read_generation, made.id, here, owner)
    return made


def _abandon(here: Parts, owner: str, generation: str) -> None:
    with contextlib.suppress(PatinaError), here.database.session() as session:
        service.cancel(session, owner, generation)
