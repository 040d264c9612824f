"""Which files of a folder are sent, under which names, in which portions. Knows nothing about HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contracts.dataset import IMAGE_EXTENSIONS
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import HOLDING_IMAGES, METADATA_NAMES, FileKind, kind_of

PORTION_FILES = 100
PORTION_BYTES = 64_000_000


class Found(NamedTuple):
    """What is in a folder."""

    sent: list[tuple[str, Path]]
    """Name within the folder, and the file."""
    left_out: list[str]
    """Names of files of other kinds, which are not sent."""


def find(source: Path) -> Found:
    """The files to send of a folder (in any depth), or the zip, Parquet file or picture itself.

    Raises:
        PatinaError: NOT_FOUND: there is nothing there to send.
    """
    if source.is_file():
        return Found([(source.name, source)], [])
    if not source.is_dir():
        raise PatinaError(
            FailureCode.NOT_FOUND,
            f"There is no folder or file {source}.",
            "Give a folder of images, a zip of one, or a data set on the Hugging Face hub as OWNER/NAME.",
        )
    files = sorted(path for path in source.rglob("*") if path.is_file() and not _hidden(path.relative_to(source)))
    sent = [path for path in files if kind_of(path.name) is not FileKind.OTHER]
    if not any(kind_of(path.name) in HOLDING_IMAGES for path in sent):
        raise PatinaError(
            FailureCode.EMPTY_DATASET,
            f"There is no image in {source}.",
            f"Images are files ending in {', '.join(IMAGE_EXTENSIONS)}; captions lie beside them.",
        )
    named = [(path.relative_to(source).as_posix(), path) for path in sent]
    return Found(named, [path.relative_to(source).as_posix() for path in files if kind_of(path.name) is FileKind.OTHER])


def portions(files: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    """The files in requests of bounded size; metadata first, so that no image waits for its caption."""
    portion: list[tuple[str, Path]] = []
    size_bytes = 0
    for name, path in sorted(files, key=lambda file: not file[0].lower().endswith(METADATA_NAMES)):
        weight = path.stat().st_size
        if portion and (len(portion) >= PORTION_FILES or size_bytes + weight > PORTION_BYTES):
            yield portion
            portion, size_bytes = [], 0
        portion.append((name, path))
        size_bytes += weight
    if portion:
        yield portion


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)
