"""Which caption belongs to which picture: sidecar files and imagefolder metadata, by name alone.

Knows nothing about pixels, files or the database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from contracts.captions import MAX_CAPTION_CHARACTERS, clean_caption
from contracts.dataset import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS

METADATA_NAME = "metadata.jsonl"


@dataclass(frozen=True)
class Metadata:
    """What a metadata.jsonl says: caption by picture name, and the lines that say nothing usable."""

    captions: Mapping[str, str]
    problems: tuple[str, ...]


def tidy_name(name: str) -> str:
    """A name as an archive or browser gives it, as a plain relative one; never used as a path."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[-500:] or "unnamed"


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def is_sidecar_name(name: str) -> bool:
    return name.lower().endswith(CAPTION_EXTENSIONS)


def is_metadata_name(name: str) -> bool:
    return PurePosixPath(name).name.lower() == METADATA_NAME


def stem(name: str) -> str:
    """What a picture and its sidecar share: the name without its extension."""
    return str(PurePosixPath(name).with_suffix(""))


def sidecar_text(data: bytes) -> str | None:
    """A sidecar's caption; None when it is not text or too long."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if len(text) > MAX_CAPTION_CHARACTERS else clean_caption(text)


def read_metadata(name: str, data: bytes) -> Metadata:
    """A metadata.jsonl in Hugging Face imagefolder form: one object a line with file_name and text.

    File names in it are relative to its own folder, so they come back with that folder in front.
    """
    folder = PurePosixPath(name).parent
    captions: dict[str, str] = {}
    problems = []
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            problems.append(f"line {number} is not JSON")
            continue
        file_name, text = (row.get("file_name"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not isinstance(file_name, str) or not isinstance(text, str):
            problems.append(f'line {number} has no "file_name" and "text"')
        elif len(text) > MAX_CAPTION_CHARACTERS:
            problems.append(f"line {number} is longer than {MAX_CAPTION_CHARACTERS} characters")
        else:
            captions[tidy_name(str(folder / tidy_name(file_name)))] = clean_caption(text)
    return Metadata(captions, tuple(problems))
