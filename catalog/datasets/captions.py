"""Which caption belongs to which image: pure matching over ledger rows. Knows nothing about SQL.

A sidecar ``a/cat.txt`` names ``a/cat.*``; a line of ``a/metadata.jsonl`` names a file exactly, or the only one below
whose path ends as it says, or is the end of what it says; so does a key of kohya's JSON, with or without extension.
Such a guess disregards case where it must, and never is a file that another line names exactly. Names are
compared inside one archive, or among the files uploaded loose, and of several uploads a caption is for the pictures
it came with (arrivals.py). A caption belongs to the image, not to the file: when two files show the same pixels, a
caption for either is a caption for the image, and the newest one wins.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from catalog.datasets.arrivals import came_with, meant, why_none
from contracts.dataset import Fate

MAX_NAME_CHARACTERS = 400
REPLACED = "replaced by"
"""How the reason of a caption or mask begins whose image has a newer one."""
WITHOUT_CAPTION = "it has no caption, but says something else of its image"


class Naming(StrEnum):
    """How a caption names its image."""

    SIDECAR = "sidecar"
    """By the name without extension."""
    LINE = "line"
    """By the name."""
    KEY = "key"
    """By the name, whole or without folder and extension."""
    WHOLE = "whole"
    """By the name, and nothing but all of it."""


class ImageFile(NamedTuple):
    """A ledger row that shows an image; ``image`` is None when it could not be read."""

    file_id: int
    scope: int
    name: str
    image: str | None
    upload: int = 0


class CaptionFile(NamedTuple):
    """A ledger row with a caption, or without when it says something else of its image.

    ``folder`` is where the metadata file lies that it is in.
    """

    file_id: int
    scope: int
    name: str
    target: str
    naming: Naming
    text: str | None
    folder: str = ""
    upload: int = 0


class Chosen(NamedTuple):
    """The caption of an image and the file it came from."""

    text: str
    source: str
    file_id: int


Names = dict[tuple[int, str], list[ImageFile]]
Fold = Callable[[str], str]

FOLDS: tuple[Fold, ...] = (str, str.casefold)
"""How names are compared: as they are written, and where that finds nothing without regard to case."""


@dataclass(frozen=True)
class Pairing:
    """The captions of the images, and what became of each caption row."""

    captions: Mapping[str, Chosen]
    naming: Mapping[str, Sequence[int]]
    """Image -> the caption rows that name it, oldest first."""
    fates: Mapping[int, tuple[Fate, str | None, str | None]]
    """Caption row -> fate, reason, image."""
    elsewhere: Collection[str]
    """Images without a caption of which one has the name that is for another upload's picture."""


def pair(images: Sequence[ImageFile], captions: Sequence[CaptionFile]) -> Pairing:
    """Match captions to images; rows come oldest first."""
    find = _finder(images)
    chosen: dict[tuple[str, bool], Chosen] = {}
    naming: dict[str, list[int]] = {}
    elsewhere: set[str] = set()
    fates: dict[int, tuple[Fate, str | None, str | None]] = {}
    looked = [(caption, *find(caption)) for caption in captions]
    taken = {
        (caption.upload, row.file_id)
        for caption, rows, exactly in looked
        for row in rows
        if exactly and caption.naming is not Naming.SIDECAR
    }
    named = [
        (caption, [row for row in rows if exactly or (caption.upload, row.file_id) not in taken])
        for caption, rows, exactly in looked
    ]
    served = {row.file_id for caption, rows in named for row in came_with(rows, caption.upload)}
    for caption, rows in named:
        for_these = meant(rows, caption.upload, served)
        found = list(dict.fromkeys(row.image for row in for_these or () if row.image is not None))
        if not found:
            reason = why_none(rows, for_these, "caption") or f"there is no usable image named {caption.target}"
            fates[caption.file_id] = (Fate.REJECTED, reason, None)
        for image in found:
            naming.setdefault(image, []).append(caption.file_id)
            _choose(chosen, fates, image, caption)
        if caption.text is not None:
            elsewhere |= {row.image for row in rows if row.image is not None}
    # One that was replaced for one of its images may serve another one still.
    for (image, silent), one in chosen.items():
        fates[one.file_id] = (Fate.USED, WITHOUT_CAPTION if silent else None, image)
    texts = {image: one for (image, silent), one in chosen.items() if not silent}
    return Pairing(texts, naming, fates, elsewhere - texts.keys())


def tidy_name(name: str) -> str:
    """A file's name as it was offered, in the one form in which names are shown and compared; it never is a path.

    Relative, with forward slashes, composed, without what cannot be seen, cut at the front; empty when nothing is left.
    """
    parts = [
        part
        for part in visible(unicodedata.normalize("NFC", name)).replace("\\", "/").strip("/ ").split("/")
        if part not in ("", ".", "..")
    ]
    return "/".join(parts)[-MAX_NAME_CHARACTERS:]


def visible(text: str) -> str:
    """Text without control and format characters and half surrogates, which no database keeps as text."""
    return "".join(c for c in text if unicodedata.category(c)[0] != "C")


def stem(name: str) -> str:
    """A name without its last extension: what a sidecar and its image share."""
    return posixpath.splitext(name)[0]


def beside(metadata_name: str, file_name: str) -> str:
    """The name a metadata file's ``file_name`` has in the archive or upload."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(metadata_name), file_name))


def _finder(images: Sequence[ImageFile]) -> Callable[[CaptionFile], tuple[list[ImageFile], bool]]:
    """Looks up the files a caption names, and whether it names them exactly."""
    whole, stems = _by(images, str), _by(images, stem)
    written = [
        (fold, _by(images, _folded(fold, posixpath.basename)), _by(images, _folded(fold, _bare))) for fold in FOLDS
    ]

    def find(caption: CaptionFile) -> tuple[list[ImageFile], bool]:
        scope, target = caption.scope, caption.target
        if caption.naming is Naming.SIDECAR:
            return stems.get((scope, target), []), True
        if caption.naming is Naming.WHOLE or (scope, target) in whole:
            return whole.get((scope, target), []), True
        if caption.naming is Naming.KEY and (scope, target) in stems:
            return stems[scope, target], True
        for fold, last, last_stems in written:
            place = scope, fold(posixpath.basename(target))
            found = _only_one([row for row in last.get(place, []) if _may_be(row.name, caption, fold)], caption)
            if not found and caption.naming is Naming.KEY:
                bare = [row for row in last_stems.get(place, []) if _may_be(stem(row.name), caption, fold)]
                found = _only_one(bare, caption)
            if found:
                return found, False
        return [], False

    return find


def _folded(fold: Fold, key: Fold) -> Fold:
    return lambda name: fold(key(name))


def _may_be(name: str, caption: CaptionFile, fold: Fold) -> bool:
    """Whether a path is one that a line or key gives the end of, or the whole of what it gives the way to."""
    if caption.naming is Naming.LINE and not _lies_in(name, caption.folder):
        return False
    path, target = (fold(_within(one, caption.folder)) for one in (name, caption.target))
    return f"/{path}".endswith(f"/{target}") or f"/{target}".endswith(f"/{path}")


def _by(images: Sequence[ImageFile], key: Callable[[str], str]) -> Names:
    names: Names = {}
    for row in images:
        names.setdefault((row.scope, key(row.name)), []).append(row)
    return names


def _bare(name: str) -> str:
    return stem(posixpath.basename(name))


def _lies_in(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _within(name: str, folder: str) -> str:
    return name[len(folder) + 1 :] if folder and _lies_in(name, folder) else name


def _only_one(found: list[ImageFile], caption: CaptionFile) -> list[ImageFile]:
    """A name alone says which file is meant only when there are no two of them: in its upload, or else at all."""
    own = [row for row in found if row.upload == caption.upload]
    return next((rows for rows in (own, found) if len({row.name for row in rows}) == 1), [])


def _choose(
    chosen: dict[tuple[str, bool], Chosen],
    fates: dict[int, tuple[Fate, str | None, str | None]],
    image: str,
    caption: CaptionFile,
) -> None:
    """The newest caption of an image wins; so does, apart from it, the newest row that only says something else."""
    place = image, caption.text is None
    earlier = chosen.get(place)
    if earlier is not None and earlier.file_id != caption.file_id:
        same = earlier.text == caption.text
        reason = f"{'says the same as' if same else REPLACED} {caption.name}"
        fates[earlier.file_id] = (Fate.DUPLICATE, reason, image)
    chosen[place] = Chosen(caption.text or "", caption.name, caption.file_id)
