"""Server-sent events as a client reads them: lines become messages. Knows nothing about HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """One event of a stream."""

    id: str | None
    event: str
    data: str


ENDED = Message(None, "ended", "")
"""Stands for an answer without content: what is followed has ended and everything it said was read before."""


def lines(pieces: Iterable[str]) -> Iterator[str]:
    """Lines of a stream that comes in pieces: CR, LF and both together end one, and nothing else.

    The names and captions that events hold may have what ``str.splitlines`` takes for ends, too, such as U+2028.
    """
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + ends.decode(piece)).split("\n")
        yield from whole
    yield from (rest + ends.decode("", final=True)).split("\n")[:-1]  # a line without an end is none


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """Messages of a stream's lines, as the WHATWG standard splits them; comments (heartbeats) are passed over."""
    identifier: str | None = None
    kind = ""
    data: list[str] = []
    for line in lines:
        if line == "":
            if data:
                yield Message(identifier, kind or "message", "\n".join(data))
            identifier, kind, data = None, "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            identifier = value


def says_the_end(message: Message, ended: Container[str]) -> bool:
    """Whether this is the last message of a stream, whose status is one of those; one that ends without it has broken
    off."""
    return message.event == "status" and json.loads(message.data).get("status") in ended
