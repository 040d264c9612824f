"""Which files of a folder are sent, under which names, in which portions. Knows nothing about HTTP."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from contracts.dataset import IMAGE_EXTENSIONS
from contracts.failures import FailureCode, InvalidInput, PatinaError
from contracts.layouts import HOLDING_IMAGES, METADATA_NAMES, FileKind, concept_folder, kind_of, masked_stem, why_not

PORTION_FILES = 100
PORTION_BYTES = 64_000_000
NAMED = 5
"""Files that are named of those left out for one reason."""
HIDDEN = "hidden: its name, or that of a folder it lies in, begins with a dot; rename it to have it sent"
NOT_UTF_8 = "its name is not UTF-8; rename it to have it sent"
LINKED_FOLDER = "a link to a folder, which is not followed; put the folder itself there, or upload it too"
DEAD_LINK = "a link to what is not there"


class Found(NamedTuple):
    """What is in a folder."""

    sent: list[tuple[str, Path]]
    """Name within the folder, after the folder's own if that says how its pictures count, and the file."""
    left_out: dict[str, str]
    """Names of files that are not sent, each with the reason."""


def find(source: Path) -> Found:
    """The files to send of a folder (in any depth), or the zip, Parquet file or picture itself.

    Raises:
        PatinaError: NOT_FOUND or EMPTY_DATASET: there is nothing there to send; INVALID_INPUT: it cannot be read.
    """
    shown = _shown(str(source))
    reason = _why_unread(source) if source.exists() else None
    if source.is_file() and _shown(source.name) != source.name:
        reason = NOT_UTF_8
    if reason is not None:
        raise InvalidInput([], f"{shown} is not sent: {reason}.", "Correct that and run the command again.")
    if source.is_file():
        return Found([(source.name, source)], {})
    if not source.is_dir():
        raise PatinaError(
            FailureCode.NOT_FOUND,
            f"There is no folder or file {shown}.",
            "Give a folder of images, a zip of one, or a data set on the Hugging Face hub as OWNER/NAME.",
        )
    sent: list[tuple[str, Path]] = []
    left_out: dict[str, str] = {}
    own = concept_folder(os.path.join(os.path.abspath(source), "any"))
    above = f"{own.name}/" if own else ""
    for path in sorted(source.rglob("*")):
        name = above + path.relative_to(source).as_posix()
        if _is_litter(name):
            continue
        if (reason := _why_unread(path) or _why_passed_over(path, name)) is not None:
            left_out[_shown(name)] = reason
        elif path.is_file():
            sent.append((name, path))
    if not any(kind_of(name) in HOLDING_IMAGES for name, _ in sent):
        there = "".join(f" Not sent: {in_words(*those)}." for those in by_reason(left_out).items())
        raise PatinaError(
            FailureCode.EMPTY_DATASET,
            f"There is no image in {shown}.{there}",
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
    """The files in requests of bounded size; metadata first, so that no image waits for its caption.

    What belongs to one picture goes in one request, by which the server knows that it does.
    """
    portion: list[tuple[str, Path]] = []
    size_bytes = 0
    ordered = sorted(files, key=lambda file: (not file[0].lower().endswith(METADATA_NAMES), picture_of(file[0])))
    for _, group in groupby(ordered, key=lambda file: picture_of(file[0])):
        together = list(group)
        weight = sum(path.stat().st_size for _, path in together)
        if portion and (len(portion) + len(together) > PORTION_FILES or size_bytes + weight > PORTION_BYTES):
            yield portion
            portion, size_bytes = [], 0
        portion += together
        size_bytes += weight
    if portion:
        yield portion


def picture_of(name: str) -> str:
    """The name, without extension, of the picture a file shows, masks or describes."""
    return masked_stem(name) if kind_of(name) is FileKind.MASK else posixpath.splitext(name)[0]


def _why_unread(path: Path) -> str | None:
    """Why a file or folder cannot be opened; None when it can be."""
    try:
        if path.is_dir():
            os.scandir(path).close()
        elif path.is_file():
            path.open("rb").close()
        elif not path.exists():
            return DEAD_LINK
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def _why_passed_over(path: Path, name: str) -> str | None:
    """Why what can be opened is not sent all the same; None when it is, and for what holds no bytes of its own."""
    if path.is_dir():
        return LINKED_FOLDER if path.is_symlink() else None
    if not path.is_file():
        return None
    return why_left_out(name) or (NOT_UTF_8 if _shown(name) != name else None)


def _shown(name: str) -> str:
    """A name as it can be written; bytes of it that are no UTF-8 by their number."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _is_litter(name: str) -> bool:
    """What systems and programs leave behind: nobody means it, so that nobody needs to be told of it."""
    *folders, last = name.split("/")
    if "__MACOSX" in folders or last.startswith("._"):
        return True
    return _is_hidden(name) and kind_of(last) is FileKind.OTHER


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
