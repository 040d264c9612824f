"""Parquet files as they are offered, read in a child process that may die (table_child.py): rows of pictures, or lines.

Knows nothing about datasets or where files lie; what is in the pictures is decode.py's.
"""

from __future__ import annotations

import json
import posixpath
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from catalog.datasets.captions import tidy_name
from contracts.dataset import Split
from contracts.layouts import split_named
from worker.archives import Budget, Limits
from worker.metadata import SPLITS_TAKEN, Metadata, Row, Unusable, lines_of, whole_number
from worker.sandbox import receive, start

CHILD = (sys.executable, "-m", "worker.table_child")
TIMEOUT_S = 60.0
MAX_WORDS_BYTES = 1024**2
MAX_PICTURE_BYTES = 1024**3
"""A longer one has made the child break its own limits; those over the limit of one file are refused by that."""
DAMAGED = "reading it takes more time or memory than it may; it is damaged, or its rows are too large"

log = structlog.get_logger(__name__)


class TableRow(NamedTuple):
    """A row of a table of pictures; ``reason`` says why its picture is not taken."""

    name: str
    picture: bytes | None
    mask: bytes | None
    caption: str | None
    concept: str | None
    repeats: int | None
    split: Split | None = None
    reason: str | None = None


class Table(NamedTuple):
    """How a table is read, and its rows, which are read while they are asked for."""

    note: str
    rows: Iterator[TableRow]


@contextmanager
def opened_table(path: Path, name: str, limits: Limits | None = None) -> Iterator[Table]:
    """A Parquet file with a column of pictures.

    Raises:
        Unusable: it is not one. A file that goes bad later ends with a row that says so.
    """
    with _child(path, "pictures") as words:
        first = next(words)
        if "refused" in first:
            raise Unusable(str(first["refused"]))
        text = first["text"]
        note = f"pictures from '{first['image']}', " + (f"captions from '{text}'" if text else "no captions")
        note += f", {SPLITS_TAKEN}" if first.get("split") else ""
        yield Table(note, _rows(words, name, limits or Limits(), path.stat().st_size))


def table_lines(path: Path) -> Metadata:
    """A metadata.parquet: rows that name pictures.

    Raises:
        Unusable: it is not one.
    """
    with _child(path, "metadata") as words:
        first = next(words)
        if "refused" in first:
            raise Unusable(str(first["refused"]))
        return lines_of(_lines(words))


def _rows(words: Iterator[dict[str, Any]], name: str, limits: Limits, packed_bytes: int) -> Iterator[TableRow]:
    budget = Budget(limits, packed_bytes)
    for said in words:
        place = f"{name}:{said.get('number', 'rest')}"
        ended = said.get("refused") or budget.refusal()
        if said.get("number", 0) > limits.entries:
            ended = f"it has more than {limits.entries} rows; split it"
        if ended:
            yield TableRow(f"{name}:rest", None, None, None, None, None, None, f"from here on it is not read: {ended}")
            return
        budget.take(len(said["picture"]) + len(said["mask"]))
        caption = str(said["text"] or "")
        yield TableRow(
            f"{place}/{_last_part(said['path'])}",
            said["picture"] if len(said["picture"]) <= limits.entry_bytes else None,
            said["mask"] or None,
            caption if caption.strip() else None,
            said["concept"],
            whole_number(said["repeats"]),
            split_named(said["split"]),
            _refusal(said["picture"], limits),
        )


def _refusal(picture: bytes, limits: Limits) -> str | None:
    if not picture:
        return "the row holds no picture; a path alone leads nowhere here"
    return f"larger than {limits.entry_bytes // 1024**2} MB" if len(picture) > limits.entry_bytes else None


def _last_part(path: str | None) -> str:
    return posixpath.basename(tidy_name(path or "")) or "image"


def _lines(words: Iterator[dict[str, Any]]) -> Iterator[Row]:
    for said in words:
        if "refused" in said:
            raise Unusable(str(said["refused"]))
        yield Row(said["number"], said["values"])


@contextmanager
def _child(path: Path, what: str) -> Iterator[Iterator[dict[str, Any]]]:
    """What a child says of a file; it is ended when nobody listens any more."""
    with path.open("rb") as file:
        child, channel = start([*CHILD, str(file.fileno()), what], TIMEOUT_S, pass_fds=(file.fileno(),))
        try:
            with channel:
                yield _said(channel, child)
        finally:
            child.kill()
            child.wait()


def _said(channel: Any, child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    pictures = False
    try:
        while True:
            words = json.loads(receive(channel, MAX_WORDS_BYTES))
            if not isinstance(words, dict) or not isinstance(words.get("number", 0), int):
                raise ValueError("the child speaks nonsense")
            if "end" in words:
                return
            if pictures and "number" in words:
                words["picture"] = receive(channel, MAX_PICTURE_BYTES)
                words["mask"] = receive(channel, MAX_PICTURE_BYTES)
            pictures = pictures or words.get("kind") == "pictures"
            yield words
            if "refused" in words:
                return
    except (TimeoutError, ConnectionError, EOFError, OSError, ValueError) as error:
        log.warning("tables.child_lost", why=type(error).__name__)
        yield {"refused": DAMAGED}
