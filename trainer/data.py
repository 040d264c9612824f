"""The data set of a run: a frozen version's Parquet, or a folder of pictures with captions, as the same rows.

Rows are in canonical order, so both forms of one content train alike. Knows nothing about tensors or models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.captions import clean_caption
from contracts.dataset import (
    CAPTION_EXTENSIONS,
    COLUMNS,
    DEFAULT_HELD_OUT_SHARE,
    IMAGE_EXTENSIONS,
    Split,
    VersionRow,
    choose_held_out,
    in_canonical_order,
    version_digest,
)
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import MAX_REPEATS, FileKind, held_out_by_path, kind_of, masked_stem, text_column
from trainer.images import DAMAGED, IdentityMemory

PARQUET = "data.parquet"
METADATA = "metadata.jsonl"
TOLD = frozenset({"file_name", "split", "concept", "repeats"})
"""Columns of metadata that say something else than the caption."""
SHOWN = 10
"""Problems listed in one message."""


@dataclass(frozen=True)
class Dataset:
    """Rows in canonical order, and how to get the picture of each."""

    rows: tuple[VersionRow, ...]
    read: Callable[[str], bytes]
    """The picture file of an image identity."""
    read_mask: Callable[[str], bytes]
    """The mask file of a mask's identity."""
    digest: str


@dataclass(frozen=True)
class _Found:
    """A picture as its source describes it, before it is opened."""

    read: Callable[[], bytes]
    name: str
    caption: str
    split: Split | None
    concept: str | None = None
    repeats: int = 1
    read_mask: Callable[[], bytes] | None = None
    original: tuple[int, int] | None = None


def read_dataset(folder: Path, memory: IdentityMemory) -> Dataset:
    """Read every row of ``folder``: ``data.parquet`` when there is one, else pictures with captions.

    Raises:
        PatinaError: DATASET_UNREADABLE naming every problem, or EMPTY_DATASET.
    """
    problems: list[str] = []
    parquet = folder / PARQUET
    found = _in_parquet(parquet) if parquet.is_file() else _in_folder(folder, problems)
    rows: list[VersionRow] = []
    reads: dict[str, Callable[[], bytes]] = {}
    masks: dict[str, Callable[[], bytes]] = {}
    for picture in found:
        try:
            row = _row(picture, memory, problems)
        except DAMAGED:
            problems.append(f"{picture.name} is damaged or no PNG, JPEG, WebP or AVIF picture")
            continue
        rows.append(row)
        reads.setdefault(row.image, picture.read)
        if row.mask is not None and picture.read_mask is not None:
            masks.setdefault(row.mask, picture.read_mask)
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PatinaError(
            FailureCode.DATASET_UNREADABLE, f"The data set cannot be read: {'; '.join(problems[:SHOWN])}{more}."
        )
    if all(picture.split is None for picture in found):
        held_out = choose_held_out((row.image for row in rows), DEFAULT_HELD_OUT_SHARE)
        rows = [row.model_copy(update={"split": Split.HELD_OUT}) if row.image in held_out else row for row in rows]
    if not any(row.split is Split.TRAIN for row in rows):
        raise PatinaError(
            FailureCode.EMPTY_DATASET,
            f"There is no picture to train on in {folder}.",
            f"It must hold {PARQUET}, or pictures ({', '.join(IMAGE_EXTENSIONS)}) with {METADATA} or caption files.",
        )
    return Dataset(
        rows=tuple(in_canonical_order(rows)),
        read=lambda image: reads[image](),
        read_mask=lambda mask: masks[mask](),
        digest=version_digest(rows),
    )


def _row(picture: _Found, memory: IdentityMemory, problems: list[str]) -> VersionRow:
    known = memory.identify(picture.read())
    mask = memory.identify(picture.read_mask()) if picture.read_mask else None
    if mask and (mask.width, mask.height) != (known.width, known.height):
        sizes = f"{mask.width}x{mask.height}, not {known.width}x{known.height}"
        problems.append(f"the mask of {picture.name} is {sizes}")
    width, height = picture.original or (known.width, known.height)
    return VersionRow(
        image=known.image,
        mask=mask.image if mask else None,
        caption=picture.caption,
        concept=picture.concept,
        repeats=picture.repeats,
        split=picture.split or Split.TRAIN,
        original_width=width,
        original_height=height,
        source_name=picture.name,
    )


def _in_parquet(file: Path) -> list[_Found]:
    try:
        return list(_rows_of(file))
    except (pa.ArrowException, ValueError, TypeError, OSError):
        raise PatinaError(FailureCode.DATASET_UNREADABLE, f"{file.name} is damaged or was made otherwise.") from None


def _rows_of(file: Path) -> Iterator[_Found]:
    parquet = pq.ParquetFile(file, memory_map=True)
    missing = [column for column in COLUMNS if column not in parquet.schema_arrow.names]
    if missing:
        raise PatinaError(FailureCode.DATASET_UNREADABLE, f"{file.name} lacks the columns {', '.join(missing)}.")
    groups = _Groups(parquet)
    number = 0
    described = [column for column in COLUMNS if column not in ("image", "mask")]
    for group in range(parquet.num_row_groups):
        for offset, row in enumerate(parquet.read_row_group(group, columns=described).to_pylist()):
            masked = groups.bytes_of("mask", group, offset) is not None
            yield _Found(
                read=_reader(groups, "image", group, offset),
                read_mask=_reader(groups, "mask", group, offset) if masked else None,
                name=row["source_name"] or f"row {number}",
                caption=row["caption"] or "",
                concept=row["concept"],
                repeats=row["repeats"],
                split=Split(row["split"]),
                original=(row["original_width"], row["original_height"]),
            )
            number += 1


class _Groups:
    """Image bytes of a Parquet file; keeps the row group read last, as rows are mostly read in order."""

    def __init__(self, parquet: pq.ParquetFile) -> None:
        self._parquet = parquet
        self._kept: tuple[int, Any] | None = None

    def bytes_of(self, column: str, group: int, offset: int) -> bytes | None:
        if self._kept is None or self._kept[0] != group:
            self._kept = (group, self._parquet.read_row_group(group, columns=["image", "mask"]))
        value = self._kept[1].column(column)[offset].as_py()
        return value["bytes"] if value else None


def _reader(groups: _Groups, column: str, group: int, offset: int) -> Callable[[], bytes]:
    return lambda: groups.bytes_of(column, group, offset) or b""


def _in_folder(folder: Path, problems: list[str]) -> list[_Found]:
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file())
    pictures, masks = _without_masks(pictures, folder, problems)
    known = set(pictures)
    described: dict[Path, dict[str, Any]] = {}
    for metadata in sorted(folder.rglob(METADATA)):
        entries: dict[Path, dict[str, Any]] = {}
        # Not splitlines(): a caption may hold characters that it takes for line ends, such as U+2028.
        for number, line in enumerate(_text(metadata, folder, problems).split("\n"), start=1):
            if line.strip():
                _describe(metadata, number, line, known, entries, problems)
        described |= _with_captions(metadata.relative_to(folder).as_posix(), entries, problems)
    return [_picture(folder, path, described.get(path), masks.get(path), problems) for path in pictures]


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


def _picture(folder: Path, path: Path, entry: dict[str, Any] | None, mask: Path | None, problems: list[str]) -> _Found:
    entry = entry or {}
    caption = entry.get("text")
    if caption is None:
        sidecars = [path.with_suffix(extension) for extension in CAPTION_EXTENSIONS]
        caption = next((_text(file, folder, problems) for file in sidecars if file.is_file()), "")
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
    return _Found(
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
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        problems.append(f"{file.relative_to(folder).as_posix()} is not UTF-8 text")
        return ""
