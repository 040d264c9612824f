"""What a file of a training set is by its name, in the layouts people have: pure text, no file is opened.

Flat pictures with sidecars, Hugging Face's imagefolder, kohya's folders and JSON, masks beside pictures, Parquet.
Knows nothing about what is inside the files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from contracts.dataset import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, Split

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Hugging Face imagefolder: one row a picture, which it names in file_name."""
KOHYA_METADATA_EXTENSION = ".json"
TABLE_EXTENSION = ".parquet"
ARCHIVE_EXTENSION = ".zip"
MASK_SUFFIX = "_mask"
TOO_MANY_CELLS = "the row has more cells than the header: a text with commas needs quotes around it"
"""Of CSV, and refused: what is beyond the last column may belong to any of them, and joining it would be a guess."""

FILE_NAME_COLUMN = "file_name"
TEXT_COLUMNS = ("text", "caption", "prompt", "description", "captions", "txt", "sentence", "title", "tags")
"""Names of the column that holds captions, likeliest first."""
NO_TEXT_COLUMNS = frozenset(
    {FILE_NAME_COLUMN, "concept", "split", "source_name", "path", "url", "id", "image_id", "hash", "sha256", "license"}
)
"""Columns of text that are no captions."""
SPLIT_COLUMN = "split"
MAX_REPEATS = 1000
"""More is not meant: a folder named 2024_holiday is no 2024 repeats."""

_OTHER_ARCHIVES = re.compile(r"\.(tar|tgz|tbz2?|txz|gz|bz2|xz|zst|7z|rar)$")
_OTHER_PICTURES = re.compile(r"\.(gif|tiff?|bmp|hei[cf]|jxl|jp2|svg|psd|tga|ico|dng|nef|cr2|arw)$")
_SPLITS = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("held_out", "validation", "valid", "val", "test"), Split.HELD_OUT),
}
_TABLE_SHARD = re.compile(r"^([a-z_]+)(-\d+-of-\d+)?\.parquet:\d+$")
"""The folder a table's row lies in, by its name; the Hugging Face hub calls tables test-00000-of-00002.parquet."""
_TABLE_ROW = re.compile(r"\.parquet:\d+$")
_KOHYA_FOLDER = re.compile(r"^(\d{1,4})_(.*\S.*)$")


class FileKind(StrEnum):
    """What a file is taken for."""

    IMAGE = "image"
    MASK = "mask"
    CAPTION = "caption"
    METADATA = "metadata"
    TABLE = "table"
    """A Parquet file that holds pictures."""
    ARCHIVE = "archive"
    URL = "url"
    """An address a picture is still to be fetched from."""
    OTHER = "other"


HOLDING_IMAGES = frozenset({FileKind.IMAGE, FileKind.ARCHIVE, FileKind.TABLE})
"""Kinds without any of which there is nothing to train on."""


class ConceptFolder(NamedTuple):
    """A folder named ``N_trigger class`` as kohya's trainer reads it."""

    name: str
    repeats: int
    words: str


def kind_of(filename: str) -> FileKind:
    """What a file is taken for, by its name."""
    name = posixpath.basename(filename).lower()
    stem, extension = posixpath.splitext(name)
    if name in METADATA_NAMES or extension == KOHYA_METADATA_EXTENSION:
        return FileKind.METADATA
    if extension in IMAGE_EXTENSIONS:
        return FileKind.MASK if stem.endswith(MASK_SUFFIX) and stem != MASK_SUFFIX else FileKind.IMAGE
    if extension in CAPTION_EXTENSIONS:
        return FileKind.CAPTION
    if extension == TABLE_EXTENSION:
        return FileKind.TABLE
    return FileKind.ARCHIVE if extension == ARCHIVE_EXTENSION else FileKind.OTHER


def why_not(filename: str) -> str:
    """Why a file of kind OTHER is not taken, and what would be."""
    name = posixpath.basename(filename).lower()
    if _OTHER_ARCHIVES.search(name):
        return "of all archives only .zip is taken; pack the files as a .zip, or send them unpacked"
    images, captions = " ".join(IMAGE_EXTENSIONS), " ".join(CAPTION_EXTENSIONS)
    if _OTHER_PICTURES.search(name):
        return f"a picture in a format that is not taken; convert it to one of {images}"
    return f"not an image ({images}), caption ({captions}), {', '.join(METADATA_NAMES)}, .json, .parquet or .zip"


def masked_stem(filename: str) -> str:
    """Of a mask: the name of its picture without extension."""
    return posixpath.splitext(filename)[0][: -len(MASK_SUFFIX)]


def concept_folder(filename: str) -> ConceptFolder | None:
    """The kohya folder a file lies in, if its folder is one; the table a row lies in never is."""
    name = posixpath.basename(posixpath.dirname(filename))
    found = None if _TABLE_ROW.search(name.lower()) else _KOHYA_FOLDER.match(name)
    if found is None or not 1 <= int(found[1]) <= MAX_REPEATS:
        return None
    return ConceptFolder(name, int(found[1]), " ".join(found[2].split()))


def split_named(value: object) -> Split | None:
    """The split a metadata column says, in our words or Hugging Face's; None for anything else."""
    return _SPLITS.get(value.strip().lower()) if isinstance(value, str) else None


def held_out_by_path(filename: str) -> bool:
    """Whether a picture is offered as one to measure on: under ``test/``, ``validation/``, …, or from such a table.

    Of folders the outermost counts, in an archive its own; where a split is said in so many words, that is stronger.
    """
    folders = [folder.strip().lower() for folder in filename.split("/")[:-1]]
    if not folders:
        return False
    shard = _TABLE_SHARD.match(folders[-1])
    return Split.HELD_OUT in (split_named(folders[0]), split_named(shard[1] if shard else None))


def text_column(columns: Iterable[str]) -> str | None:
    """Which of the columns that hold text are the captions: the likeliest name, else the first that may be."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(column.lower(), column)
    for name in TEXT_COLUMNS:
        if name in by_name:
            return by_name[name]
    return next((column for name, column in by_name.items() if name not in NO_TEXT_COLUMNS), None)
