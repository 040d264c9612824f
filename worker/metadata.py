"""Metadata files as they are offered: Hugging Face's metadata.jsonl and metadata.csv, kohya's JSON.

Which caption belongs to which picture is catalog/datasets/captions.py; Parquet is tables.py. Knows nothing about
files or the database.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from catalog.datasets.captions import tidy_name
from catalog.datasets.ingest import MetadataLine
from contracts.captions import MAX_CAPTION_CHARACTERS
from contracts.dataset import Split
from contracts.layouts import FILE_NAME_COLUMN, SPLIT_COLUMN, TEXT_COLUMNS, TOO_MANY_CELLS, split_named, text_column
from worker.captions import decoded_text

MAX_METADATA_BYTES = 64 * 1024**2
MAX_JSON_BYTES = 16 * 1024**2
"""One JSON document takes many times its length in memory, and cannot be read line by line."""
MAX_LINES = 200_000
MAX_LINE_CHARACTERS = 1024**2
TOLD = frozenset({FILE_NAME_COLUMN, SPLIT_COLUMN, "concept", "repeats"})
"""Columns that say something beside the caption."""
SPLITS_TAKEN = f"splits from '{SPLIT_COLUMN}'"
NOT_TEXT = "it is neither UTF-8 nor UTF-16 text"
LINE_NOT_TEXT = "the line is neither UTF-8 nor UTF-16 text; save the file as UTF-8"
NO_TEXT = re.compile("[\0\udc80-\udcff]")
"""Zeros, and what ``surrogateescape`` makes of bytes that are no UTF-8."""


class Row(NamedTuple):
    """A row and its number, or why it cannot be read."""

    number: int
    values: Mapping[str, Any]
    reason: str | None = None


class Metadata(NamedTuple):
    """What a metadata file says, and how it was read."""

    lines: list[MetadataLine]
    note: str


class Unusable(Exception):
    """The metadata file as a whole says nothing; the text says why and is shown to the user."""


def read_metadata(filename: str, data: bytes) -> Metadata:
    """The rows of a metadata file, by its extension.

    Raises:
        Unusable: there is nothing in it.
    """
    extension = posixpath.splitext(filename.lower())[1]
    if extension == ".json":
        return _kohya(data)
    text = decoded_text(data)
    if text is None:
        # One broken byte costs its line alone.
        text = data.decode("utf-8-sig", errors="surrogateescape")
    return lines_of(_csv_rows(text) if extension == ".csv" else _json_rows(text))


def lines_of(rows: Iterable[Row]) -> Metadata:
    """Rows with file_name and a column of text, as Hugging Face's imagefolder has them; concept, repeats and split.

    Other columns are other people's and are passed over; a row that says nothing usable keeps its reason.

    Raises:
        Unusable: there is no row, or there are too many.
    """
    kept: list[Row] = []
    columns: dict[str, None] = {}
    spare: str | None = None
    for row in rows:
        if len(kept) >= MAX_LINES:
            raise Unusable(f"it has more than {MAX_LINES} rows; split it")
        spare = spare or text_column(_of_text(row.values))
        # Other people's columns may be any number, and all rows are held at once.
        told = {key: value for key, value in row.values.items() if key == spare or _may_tell(key)}
        kept.append(row._replace(values=told))
        columns.update(dict.fromkeys(_of_text(told)))
    if not kept:
        raise Unusable("it has no lines")
    column = text_column(columns)
    note = f"captions from '{column}'" if column else "no column of it holds text"
    lines = [_line(row, column or "text") for row in kept]
    if any(line.split for line in lines):
        note += f", {SPLITS_TAKEN}"
    return Metadata(lines, note)


def _of_text(values: Mapping[str, Any]) -> list[str]:
    return [key for key, value in values.items() if isinstance(value, str)]


def _may_tell(column: str) -> bool:
    return column in TOLD or column.lower() in TEXT_COLUMNS


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE_CHARACTERS:
            yield Row(number, {}, f"the line is longer than {MAX_LINE_CHARACTERS // 1024**2} MB")
            continue
        if NO_TEXT.search(line):
            yield Row(number, {}, LINE_NOT_TEXT)
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            yield Row(number, {}, "the line is not JSON")
            continue
        # Text and counts alone: other people's columns may hold anything.
        told = values.items() if isinstance(values, dict) else ()
        yield Row(number, {key: value for key, value in told if isinstance(value, str | int)})


def _csv_rows(text: str) -> Iterator[Row]:
    lines = _Lines(text)
    reader = csv.DictReader(lines)
    number = 1
    while True:
        number += 1
        lines.row_characters = 0
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield Row(number, {}, f"the line is not CSV: {error}")
            continue
        if values is None:
            return
        if any(value and NO_TEXT.search(value) for key, value in values.items() if key is not None):
            yield Row(number, {}, LINE_NOT_TEXT)
            continue
        if any(values.pop(None, ())):  # cells that only end the row are spreadsheets' own
            yield Row(number, {}, TOO_MANY_CELLS)
            continue
        yield Row(number, {key: value for key, value in values.items() if key and value is not None})


def _line(row: Row, column: str) -> MetadataLine:
    if row.reason:
        return MetadataLine(row.number, "", None, row.reason)
    offered = row.values.get(FILE_NAME_COLUMN)
    file_name = tidy_name(offered) if isinstance(offered, str) else ""
    if not file_name:
        return MetadataLine(row.number, "", None, f'the line has no "{FILE_NAME_COLUMN}"')
    caption, concept = row.values.get(column), row.values.get("concept")
    repeats, split = whole_number(row.values.get("repeats")), split_named(row.values.get(SPLIT_COLUMN))
    if not isinstance(caption, str):
        if not concept and repeats is None and split is None:
            return MetadataLine(row.number, file_name, None, f'the line has no "{column}"')
        caption = ""
    return _said(row.number, file_name, caption, concept, repeats, split)


def _said(
    number: int,
    file_name: str,
    caption: str,
    concept: Any = None,
    repeats: int | None = None,
    split: Split | None = None,
) -> MetadataLine:
    if len(caption) > MAX_CAPTION_CHARACTERS:
        return MetadataLine(number, file_name, None, f"the caption is longer than {MAX_CAPTION_CHARACTERS} characters")
    kept = _whole(concept) if isinstance(concept, str) else None
    return MetadataLine(number, file_name, _whole(caption), None, kept, repeats, split)


def whole_number(value: Any) -> int | None:
    """A count as JSON or CSV say it."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _kohya(data: bytes) -> Metadata:
    """kohya's finetuning metadata: image key -> {caption, tags}; both together when there are both, as it trains."""
    if len(data) > MAX_JSON_BYTES:
        raise Unusable(f"larger than {MAX_JSON_BYTES // 1024**2} MB; use metadata.jsonl, which has no such limit")
    text = decoded_text(data)
    if text is None:
        raise Unusable(NOT_TEXT)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        raise Unusable("it is not JSON") from None
    if not isinstance(entries, dict) or not any(_is_entry(entry) for entry in entries.values()):
        raise Unusable('it is not kohya\'s metadata: {"picture": {"caption": "…", "tags": "…"}}')
    lines = [_entry(number, key, entry) for number, (key, entry) in enumerate(entries.items(), 1)]
    return Metadata(lines, "kohya's metadata: caption and tags")


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and ("caption" in entry or "tags" in entry)


def _entry(number: int, key: str, entry: Any) -> MetadataLine:
    file_name = tidy_name(key)
    said = [entry.get(word) for word in ("caption", "tags")] if isinstance(entry, dict) else []
    texts = [text for text in said if isinstance(text, str) and text.strip()]
    if not file_name or not texts:
        return MetadataLine(number, file_name, None, 'the entry has neither "caption" nor "tags"')
    return _said(number, file_name, ", ".join(texts))


def _whole(text: str) -> str:
    """JSON can name half a surrogate pair, which is no text."""
    return text.encode("utf-8", "replace").decode()


class _Lines:
    """The lines of a text; a row of more than ``MAX_LINE_CHARACTERS`` is an error, after which others come."""

    def __init__(self, text: str) -> None:
        self.row_characters = 0
        self._lines = io.StringIO(text, newline="")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.row_characters += len(line)
        if self.row_characters > MAX_LINE_CHARACTERS:
            self.row_characters = 0
            raise csv.Error(f"longer than {MAX_LINE_CHARACTERS // 1024**2} MB")
        return line
