"""A folder of pictures with captions beside them or in metadata.jsonl, masks too: what is there, before it is opened.

Knows nothing about pixels, or about what becomes of the pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.captions import clean_caption
from contracts.dataset import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, Split
from contracts.layouts import MAX_REPEATS, METADATA_NAMES, FileKind, held_out_by_path, kind_of, masked_stem, text_column

METADATA = "metadata.jsonl"
NOT_READ = tuple(name for name in METADATA_NAMES if name != METADATA)
"""Of a data set's metadata, forms that only an upload takes: told, as captions are not dropped in silence."""
SHOWN = 10
"""Columns named in one message."""
TOLD = frozenset({"file_name", "split", "concept", "repeats"})
"""Columns of metadata that say something else than the caption."""


@dataclass(frozen=True)
class Found:
    """A picture as its source describes it, before it is opened."""

    read: Callable[[], bytes]
    name: str
    caption: str
    split: Split | None
    concept: str | None = None
    repeats: int = 1
    read_mask: Callable[[], bytes] | None = None
    original: tuple[int, int] | None = None


def in_folder(folder: Path, problems: list[str]) -> list[Found]:
    """Every picture below ``folder`` with what is said of it; what cannot be used is added to ``problems``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]
    pictures, masks = _without_masks(pictures, folder, problems)
    known = set(pictures)
    described: dict[Path, dict[str, Any]] = {}
    for metadata in (path for path in files if path.name == METADATA):
        entries: dict[Path, dict[str, Any]] = {}
        # Not splitlines(): a caption may hold characters that it takes for line ends, such as U+2028.
        for number, line in enumerate(_text(metadata, folder, problems).split("\n"), start=1):
            if line.strip():
                _describe(metadata, number, line, known, entries, problems)
        described |= _with_captions(metadata.relative_to(folder).as_posix(), entries, problems)
    for other in (path for path in files if path.name in NOT_READ):
        where = other.relative_to(folder).as_posix()
        problems.append(f"{where} is not read from a folder: make it {METADATA}, or upload the folder to a dataset")
    # A camera's or Windows' IMG.TXT is the caption of its IMG.JPG.
    sidecars = {
        (path.parent, path.stem, path.suffix.lower()): path
        for path in files
        if path.suffix.lower() in CAPTION_EXTENSIONS
    }
    return [_picture(folder, path, described.get(path), masks.get(path), sidecars, problems) for path in pictures]


def _without_masks(found: list[Path], folder: Path, problems: list[str]) -> tuple[list[Path], dict[Path, Path]]:
    """The pictures, and of those that have one the mask: NAME_mask.png beside NAME.jpg."""
    pictures = [path for path in found if kind_of(path.name) is not FileKind.MASK]
    masks: dict[Path, Path] = {}
    for path in set(found).difference(pictures):
        stem = masked_stem(path.as_posix())
        of = [picture for picture in pictures if picture.with_suffix("").as_posix() == stem]
        if not of:
            where = path.relative_to(folder).as_posix()
            problems.append(f"{where} is taken for the mask of a picture that is not there: rename it")
        masks |= dict.fromkeys(of, path)
    return pictures, masks


def _describe(
    metadata: Path,
    number: int,
    line: str,
    pictures: set[Path],
    described: dict[Path, dict[str, Any]],
    problems: list[str],
) -> None:
    where = f"{metadata.name} line {number}"
    try:
        entry = json.loads(line)
        path = metadata.parent / entry["file_name"]
    except (ValueError, KeyError, TypeError):
        problems.append(f"{where} is not a JSON object with file_name")
        return
    if path not in pictures:
        problems.append(f"{where} names {entry['file_name']}, which is not there")
        return
    described[path] = entry


def _with_captions(
    name: str, entries: Mapping[Path, dict[str, Any]], problems: list[str]
) -> dict[Path, dict[str, Any]]:
    """The entries with their captions under ``text``, from the column an upload of the same file would take."""
    columns = dict.fromkeys(key for entry in entries.values() for key in entry)
    told = [key for key in columns if any(isinstance(entry.get(key), str) for entry in entries.values())]
    column = text_column(told)
    unread = [key for key in columns if key not in TOLD]
    if column is None and unread:
        found = ", ".join(unread[:SHOWN])
        problems.append(f"{name} has no column of captions (it has {found}): name the one that holds them text")
    return {path: {**entry, "text": entry.get(column) if column else None} for path, entry in entries.items()}


def _picture(
    folder: Path,
    path: Path,
    entry: dict[str, Any] | None,
    mask: Path | None,
    sidecars: Mapping[tuple[Path, str, str], Path],
    problems: list[str],
) -> Found:
    entry = entry or {}
    caption = entry.get("text")
    if caption is None:
        keys = [(path.parent, path.stem, extension) for extension in CAPTION_EXTENSIONS]
        caption = next((_text(sidecars[key], folder, problems) for key in keys if key in sidecars), "")
    name = path.relative_to(folder).as_posix()
    split = None
    if "split" in entry:
        try:
            split = Split(entry["split"])
        except ValueError:
            problems.append(f"{name} has split {entry['split']!r}; it is train or held_out")
    elif held_out_by_path(name):
        split = Split.HELD_OUT
    repeats = entry.get("repeats", 1)
    if not isinstance(repeats, int) or not 1 <= repeats <= MAX_REPEATS:
        problems.append(f"{name} has repeats {repeats!r}; it is a whole number from 1 to {MAX_REPEATS}")
        repeats = 1
    concept = entry.get("concept")
    return Found(
        read=path.read_bytes,
        name=name,
        caption=clean_caption(str(caption)),
        split=split,
        concept=None if concept is None else str(concept),
        repeats=repeats,
        read_mask=mask.read_bytes if mask else None,
    )


def _text(file: Path, folder: Path, problems: list[str]) -> str:
    """A text file without the mark some editors put first; one that is not UTF-8 is a problem, not a guess."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = None
    # UTF-16 that does not say so is valid UTF-8, with a zero beside every letter.
    if text is None or "\0" in text:
        problems.append(f"{file.relative_to(folder).as_posix()} is not UTF-8 text")
        return ""
    return text
