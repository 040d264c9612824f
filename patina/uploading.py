"""Which files of a folder are sent, under which names, in which portions. Knows nothing about HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from contracts.dataset import IMAGE_EXTENSIONS
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import HOLDING_IMAGES, METADATA_NAMES, FileKind, kind_of, why_not

PORTION_FILES = 100
PORTION_BYTES = 64_000_000
NAMED = 5
"""Files that are named of those left out for one reason."""
HIDDEN = "hidden: its name, or that of a folder it lies in, begins with a dot; rename it to have it sent"


class Found(NamedTuple):
    """What is in a folder."""

    sent: list[tuple[str, Path]]
    """Name within the folder, and the file."""
    left_out: dict[str, str]
    """Names of files that are not sent, each with the reason."""


def find(source: Path) -> Found:
    """The files to send of a folder (in any depth), or the zip, Parquet file or picture itself.

    Raises:
        PatinaError: NOT_FOUND: there is nothing there to send.
    """
    if source.is_file():
        return Found([(source.name, source)], {})
    if not source.is_dir():
        raise PatinaError(
            FailureCode.NOT_FOUND,
            f"There is no folder or file {source}.",
            "Give a folder of images, a zip of one, or a data set on the Hugging Face hub as OWNER/NAME.",
        )
    files = {path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()}
    wanted = {name: path for name, path in files.items() if not _is_litter(name)}
    left_out = {name: reason for name in wanted if (reason := why_left_out(name)) is not None}
    sent = [(name, path) for name, path in wanted.items() if name not in left_out]
    if not any(kind_of(name) in HOLDING_IMAGES for name, _ in sent):
        there = "".join(f" Not sent: {in_words(*those)}." for those in by_reason(left_out).items())
        raise PatinaError(
            FailureCode.EMPTY_DATASET,
            f"There is no image in {source}.{there}",
            f"Images are files ending in {', '.join(IMAGE_EXTENSIONS)}; captions lie beside them.",
        )
    return Found(sent, left_out)


def why_left_out(name: str) -> str | None:
    """Why a file of this name within its folder is not sent; None when it is."""
    if _is_hidden(name):
        return HIDDEN
    return why_not(name) if kind_of(name) is FileKind.OTHER else None


def by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of what is not sent, for each reason."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def in_words(reason: str, names: Sequence[str]) -> str:
    """What is left out for one reason, and the first of the names."""
    more = f", … and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} ({reason}): {', '.join(names[:NAMED])}{more}"


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


def _is_litter(name: str) -> bool:
    """What systems and programs leave behind: nobody means it, so that nobody needs to be told of it."""
    *folders, last = name.split("/")
    if "__MACOSX" in folders or last.startswith("._"):
        return True
    return _is_hidden(name) and kind_of(last) is FileKind.OTHER


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
