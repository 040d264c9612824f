"""Captions as they are offered: the text of a sidecar, the lines of a metadata.jsonl.

Which caption belongs to which picture is catalog/datasets/captions.py. Knows nothing about files or the database.
"""

from __future__ import annotations

import json

from catalog.datasets.captions import tidy_name
from catalog.datasets.ingest import MetadataLine
from contracts.captions import MAX_CAPTION_CHARACTERS

MAX_CAPTION_FILE_BYTES = 1024**2
MAX_METADATA_BYTES = 64 * 1024**2


def sidecar_text(data: bytes) -> str | None:
    """A sidecar's text; None when it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def metadata_lines(data: bytes) -> list[MetadataLine]:
    """A metadata.jsonl in Hugging Face imagefolder form: one object a line with file_name and text.

    Other keys are other people's columns and are passed over; a line that says nothing usable keeps its reason.
    """
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    return [_line(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _line(number: int, text: str) -> MetadataLine:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return MetadataLine(number, "", None, "the line is not JSON")
    offered = row.get("file_name") if isinstance(row, dict) else None
    file_name = tidy_name(offered) if isinstance(offered, str) else ""
    if not file_name:
        return MetadataLine(number, "", None, 'the line has no "file_name"')
    caption = row.get("text")
    if not isinstance(caption, str):
        return MetadataLine(number, file_name, None, 'the line has no "text"')
    if len(caption) > MAX_CAPTION_CHARACTERS:
        return MetadataLine(number, file_name, None, f"the caption is longer than {MAX_CAPTION_CHARACTERS} characters")
    # JSON can name half a surrogate pair, which is no text.
    return MetadataLine(number, file_name, caption.encode("utf-8", "replace").decode())
