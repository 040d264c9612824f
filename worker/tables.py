"""Parquet files as they are offered, read in a child process that may die (table_child.py): rows of pictures, or lines.

Knows nothing about datasets or where files lie; what is in the pictures is decode.py's.
"""

from __future__ import annotations

import posixpath
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from catalog.datasets.captions import tidy_name
from contracts.dataset import Split
from contracts.layouts import split_named
from worker.archives import Budget, Limits
from worker.metadata import SPLITS_TAKEN, Metadata, Row, Unusable, lines_of, whole_number
from worker.sandbox import receive, start

CHILD = (sys.executable, "-m", "worker.table_child")
TIMEOUT_S = 60.0
MAX_WORDS_BYTES = 1024**2
DAMAGED = "reading it takes more time or memory than it may; it is damaged, or its rows are too large"
NO_PICTURE = "the row holds no picture; a path alone leads nowhere here"
NONSENSE = "the child speaks nonsense"

log = structlog.get_logger(__name__)


class TableRow(NamedTuple):
    """A row of a table of pictures; the reasons say why its picture, or its mask alone, is not taken."""

    name: str
    picture: bytes | None
    mask: bytes | None
    caption: str | None
    concept: str | None
    repeats: int | None
    split: Split | None = None
    reason: str | None = None
    mask_reason: str | None = None


class Table(NamedTuple):
    """How a table is read, and its rows, which are read while they are asked for."""

    note: str
    rows: Iterator[TableRow]


class _Said(BaseModel):
    """A message of the child's; whoever took it over may say anything."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _PictureColumns(_Said):
    kind: Literal["pictures"]
    image: str
    text: str | None
    split: bool


class _LineColumns(_Said):
    kind: Literal["lines"]


class _Picture(_Said):
    """A row; after it come the bytes of its picture and its mask, where they are not over the limit."""

    number: int
    path: str | None
    text: str | None
    concept: str | None
    repeats: int | None
    split: str | None
    picture_bytes: Annotated[int, Field(ge=0)]
    mask_bytes: Annotated[int, Field(ge=0)]


class _Line(_Said):
    number: int
    values: dict[str, str | int | None]


class _Refused(_Said):
    refused: Annotated[str, Field(max_length=500)]


class _Ended(_Said):
    end: Literal[True]


class _Parts(NamedTuple):
    """What came after a row; None where it was too large to come."""

    picture: bytes | None
    mask: bytes | None


_Word = _PictureColumns | _LineColumns | _Picture | _Line | _Refused | _Ended
_WORD: TypeAdapter[_Word] = TypeAdapter(_Word)


@contextmanager
def opened_table(path: Path, name: str, limits: Limits | None = None) -> Iterator[Table]:
    """A Parquet file with a column of pictures.

    Raises:
        Unusable: it is not one. A file that goes bad later ends with a row that says so.
    """
    limits = limits or Limits()
    with _child(path, str(limits.entry_bytes), limits.entry_bytes) as told:
        first, _ = next(told)
        if not isinstance(first, _PictureColumns):
            raise Unusable(_why(first))
        note = f"pictures from '{first.image}', " + (f"captions from '{first.text}'" if first.text else "no captions")
        note += f", {SPLITS_TAKEN}" if first.split else ""
        yield Table(note, _rows(told, name, limits, path.stat().st_size))


def table_lines(path: Path) -> Metadata:
    """A metadata.parquet: rows that name pictures.

    Raises:
        Unusable: it is not one.
    """
    with _child(path, "metadata", 0) as told:
        first, _ = next(told)
        if not isinstance(first, _LineColumns):
            raise Unusable(_why(first))
        return lines_of(_lines(told))


def _rows(told: Iterator[tuple[_Word, _Parts]], name: str, limits: Limits, packed_bytes: int) -> Iterator[TableRow]:
    budget = Budget(limits, packed_bytes)
    for said, parts in told:
        ended = budget.refusal() if isinstance(said, _Picture) else _why(said)
        if isinstance(said, _Picture) and said.number > limits.entries:
            ended = f"it has more than {limits.entries} rows; split it"
        if ended or not isinstance(said, _Picture):
            yield TableRow(f"{name}:rest", None, None, None, None, None, None, f"from here on it is not read: {ended}")
            return
        budget.take(said.picture_bytes + said.mask_bytes)
        caption = said.text or ""
        yield TableRow(
            f"{name}:{said.number}/{_last_part(said.path)}",
            parts.picture,
            parts.mask or None,
            caption if caption.strip() else None,
            said.concept,
            whole_number(said.repeats),
            split_named(said.split),
            _too_large(parts.picture, limits) if said.picture_bytes else NO_PICTURE,
            _too_large(parts.mask, limits),
        )


def _too_large(part: bytes | None, limits: Limits) -> str | None:
    return f"larger than {limits.entry_bytes // 1024**2} MB" if part is None else None


def _last_part(path: str | None) -> str:
    return posixpath.basename(tidy_name(path or "")) or "image"


def _lines(told: Iterator[tuple[_Word, _Parts]]) -> Iterator[Row]:
    for said, _ in told:
        if not isinstance(said, _Line):
            raise Unusable(_why(said))
        yield Row(said.number, said.values)


def _why(said: _Word) -> str:
    """Why nothing more is read; a word out of its place is a child's that is not to be believed."""
    return said.refused if isinstance(said, _Refused) else DAMAGED


@contextmanager
def _child(path: Path, what: str, most_bytes: int) -> Iterator[Iterator[tuple[_Word, _Parts]]]:
    """What a child says of a file; it is ended when nobody listens any more."""
    with path.open("rb") as file:
        child, channel = start([*CHILD, str(file.fileno()), what], TIMEOUT_S, pass_fds=(file.fileno(),))
        try:
            with channel:
                yield _said(channel, most_bytes)
        finally:
            child.kill()
            child.wait()


def _said(channel: socket.socket, most_bytes: int) -> Iterator[tuple[_Word, _Parts]]:
    """The columns, which are the first word, and the rows, which are numbered; the last may be a refusal."""
    words = 0
    try:
        while True:
            said = _WORD.validate_json(receive(channel, MAX_WORDS_BYTES))
            if isinstance(said, _Ended) and words:
                return
            if isinstance(said, _Ended) or (isinstance(said, _Picture | _Line) and said.number != words):
                raise ValueError(NONSENSE)
            parts = _Parts(None, None)
            if isinstance(said, _Picture):
                parts = _Parts(*(_part(channel, size, most_bytes) for size in (said.picture_bytes, said.mask_bytes)))
            yield said, parts
            if isinstance(said, _Refused):
                return
            words += 1
    except (TimeoutError, ConnectionError, EOFError, OSError, ValueError) as error:
        log.warning("tables.child_lost", why=type(error).__name__)
        yield _Refused(refused=DAMAGED), _Parts(None, None)


def _part(channel: socket.socket, size: int, most_bytes: int) -> bytes | None:
    if size > most_bytes:
        return None
    part = receive(channel, size)
    if len(part) != size:
        raise ValueError(NONSENSE)
    return part
