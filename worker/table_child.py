"""The child that reads Parquet nobody has vouched for: `python -m worker.table_child FD MOST_BYTES`.

It is given an open file and speaks over its stdin: first what the columns are, then row after row, then the end. Of
pictures and masks longer than MOST_BYTES it tells the length alone; with "metadata" in its place it tells lines.
Knows nothing about datasets; its limits are worker/sandbox.py's, its words are read by worker/tables.py.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.captions import MAX_CAPTION_CHARACTERS
from contracts.layouts import FILE_NAME_COLUMN, SPLIT_COLUMN, text_column
from worker.sandbox import allow_cpu, limit_process, send

MEMORY_BYTES = 3 * 1024**3
CPU_SECONDS_EACH = 30
BATCH_ROWS = 4
BATCH_LINES = 512
BUFFER_BYTES = 1024**2
PICTURE_COLUMNS = ("image", "img", "picture", "png", "jpg", "jpeg", "webp", "bytes")
MASK_COLUMN = "mask"
TEXT_CUT = MAX_CAPTION_CHARACTERS + 1
"""One more than is taken, so that a caption that is too long is told and not shortened."""


class Refusal(Exception):
    """The file is not accepted; the text says why and is shown to the user."""


def main() -> None:
    """Read one file and tell it."""
    limit_process(MEMORY_BYTES)
    allow_cpu(CPU_SECONDS_EACH)
    with socket.socket(fileno=sys.stdin.fileno()) as channel:
        try:
            with os.fdopen(int(sys.argv[1]), "rb") as file:
                for words, *parts in _told(file, None if sys.argv[2] == "metadata" else int(sys.argv[2])):
                    send(channel, json.dumps(words).encode())
                    for part in parts:
                        send(channel, part)
                    allow_cpu(CPU_SECONDS_EACH)
            send(channel, b'{"end": true}')
        except Refusal as refusal:
            send(channel, json.dumps({"refused": str(refusal)}).encode())
        except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError, TypeError):
            send(channel, b'{"refused": "the file is damaged"}')


def _told(file: Any, most_bytes: int | None) -> Iterator[tuple[Any, ...]]:
    try:
        parquet = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, MemoryError, OSError, ValueError):
        raise Refusal("not a Parquet file, or a damaged one") from None
    schema = parquet.schema_arrow
    yield from _lines(parquet, schema) if most_bytes is None else _pictures(parquet, schema, most_bytes)


def _lines(parquet: Any, schema: Any) -> Iterator[tuple[Any, ...]]:
    texts = _text_columns(schema)
    if FILE_NAME_COLUMN not in texts:
        raise Refusal(f'it has no column "{FILE_NAME_COLUMN}"')
    text = text_column(texts)
    told = {FILE_NAME_COLUMN, *([text] if text else []), *({"concept", SPLIT_COLUMN} & set(texts)), *_counts(schema)}
    yield ({"kind": "lines"},)
    for number, values in _rows(parquet, sorted(told), BATCH_LINES):
        yield ({"number": number, "values": {name: _plain(value) for name, value in values.items()}},)


def _pictures(parquet: Any, schema: Any, most_bytes: int) -> Iterator[tuple[Any, ...]]:
    image = _picture_column(schema)
    if image is None:
        raise Refusal('it has no column of pictures (a struct with "bytes", as Hugging Face writes them)')
    texts = _text_columns(schema)
    text = text_column(texts)
    mask = MASK_COLUMN if image != MASK_COLUMN and MASK_COLUMN in schema.names else None
    also = {"concept", "source_name", SPLIT_COLUMN} & set(texts) | _counts(schema)
    told = {name for name in (image, text, mask) if name} | also
    yield ({"kind": "pictures", "image": image, "text": text, "split": SPLIT_COLUMN in also},)
    for number, values in _rows(parquet, sorted(told), BATCH_ROWS):
        picture, path = _bytes_of(values[image])
        masked, _ = _bytes_of(values[mask]) if mask else (b"", None)
        words = {
            "number": number,
            "path": _plain(values.get("source_name") or path),
            "text": _plain(values[text]) if text else None,
            "concept": _plain(values.get("concept")),
            "repeats": _plain(values.get("repeats")),
            "split": _plain(values.get(SPLIT_COLUMN)),
            "picture_bytes": len(picture),
            "mask_bytes": len(masked),
        }
        yield words, *(part for part in (picture, masked) if len(part) <= most_bytes)


def _rows(parquet: Any, columns: list[str], batch_rows: int) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in parquet.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False):
        for values in batch.to_pylist():
            number += 1
            yield number, values


def _text_columns(schema: Any) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]


def _counts(schema: Any) -> set[str]:
    return {field.name for field in schema if field.name == "repeats" and pa.types.is_integer(field.type)}


def _picture_column(schema: Any) -> str | None:
    """A struct with bytes, the one named image before others; else plain bytes under a name that says picture."""
    structs = [field.name for field in schema if pa.types.is_struct(field.type) and _holds_bytes(field.type)]
    plain = [field.name for field in schema if _is_bytes(field.type) and field.name.lower() in PICTURE_COLUMNS]
    ranked = sorted(structs, key=lambda name: (name != "image", name == MASK_COLUMN))
    return next(iter([*ranked, *plain]), None)


def _holds_bytes(kind: Any) -> bool:
    return any(kind.field(i).name == "bytes" and _is_bytes(kind.field(i).type) for i in range(kind.num_fields))


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_of(value: Any) -> tuple[bytes, str | None]:
    if isinstance(value, dict):
        found, path = value.get("bytes"), value.get("path")
        return found if isinstance(found, bytes) else b"", path if isinstance(path, str) else None
    return value if isinstance(value, bytes) else b"", None


def _plain(value: Any) -> str | int | None:
    if isinstance(value, str):
        return value[:TEXT_CUT]
    return value if isinstance(value, int) else None


if __name__ == "__main__":
    main()
