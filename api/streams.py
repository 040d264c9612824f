"""Server-sent events, read from the database so that any API process can go on where another stopped.

Knows nothing about how events are stored: it is given a function that reads what comes after a number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import anyio
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.settings import ApiSettings
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError

CLOSING_GRACE_S = 2.0
"""Time streams have to end in good order when the server stops."""

LARGEST_ID = 2**31 - 1
"""Of an event: the database keeps no larger number."""

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Events, until what is followed has ended."}
}
"""How routes that stream describe it."""


@dataclass(frozen=True)
class Entry:
    """One event: its number, its type and its JSON."""

    seq: int
    type: str
    json: str


@dataclass(frozen=True)
class Reading:
    """What one look into the database found; the status is read before the entries."""

    entries: list[Entry]
    status: str
    status_json: str
    ended: bool
    more: bool
    """Whether further entries wait already."""


async def answer(read: Callable[[int], Reading], last_seen: str | None, settings: ApiSettings) -> Response:
    """The stream after the event a client has seen last; 204 when that was the end of it.

    Raises:
        InvalidInput: ``last_seen`` is not the id of an event.
        PatinaError: as ``read`` does, while nothing has been sent yet.
    """
    after = last_event_id(last_seen)
    now = await run_in_threadpool(read, after)
    if last_seen and now.ended and not now.entries:
        return Response(status_code=204)
    closing = anyio.Event()
    return EventSourceResponse(
        follow(read, after, settings.poll_s, closing),
        ping=settings.stream_ping_s,
        shutdown_event=closing,
        shutdown_grace_period=CLOSING_GRACE_S,
    )


async def follow(
    read: Callable[[int], Reading], after: int, poll_s: float, closing: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    """Every entry after ``after`` with its number as id, and a ``status`` event whenever the status changes.

    Ends when what is followed has ended and everything it said was sent: then the last event is the final status.
    Ends without it when ``closing`` is set, because the server stops, and when what is followed was removed. Reading
    happens in a thread; a client that goes away cancels this at its next wait.
    """
    told: str | None = None
    while True:
        try:
            reading = await run_in_threadpool(read, after)
        except PatinaError as error:
            if error.code is FailureCode.NOT_FOUND:
                return  # whoever comes back for more is told so
            raise
        if reading.status != told and not reading.ended:
            told = reading.status
            yield ServerSentEvent(data=reading.status_json, event="status")
        for entry in reading.entries:
            after = entry.seq
            yield ServerSentEvent(data=entry.json, event=entry.type, id=str(entry.seq))
        if reading.more:
            continue
        if reading.ended:
            yield ServerSentEvent(data=reading.status_json, event="status")
            return
        with anyio.move_on_after(poll_s):
            await closing.wait()
        if closing.is_set():
            return


def last_event_id(header: str | None) -> int:
    """The number a client has seen last; 0 when it has seen nothing.

    Raises:
        InvalidInput: it is not a number this server gave out.
    """
    if header is None or header == "":
        return 0
    if not header.isdecimal() or len(header) > len(str(LARGEST_ID)) or int(header) > LARGEST_ID:
        raise InvalidInput([FieldError(pointer="/header/Last-Event-ID", message="is not the id of an event")])
    return int(header)
