"""Which caption belongs to which image: pure matching over ledger rows. Knows nothing about SQL.

A sidecar ``a/cat.txt`` names ``a/cat.*``; a line of ``a/metadata.jsonl`` names a file exactly. Names are compared
inside one archive, or among the files uploaded loose. A caption belongs to the image, not to the file: when two
files show the same pixels, a caption for either is a caption for the image, and the newest one wins.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contracts.dataset import Fate

MAX_NAME_CHARACTERS = 400


class ImageFile(NamedTuple):
    """A ledger row that shows an image."""

    file_id: int
    scope: int
    name: str
    image: str


class CaptionFile(NamedTuple):
    """A ledger row with a caption; ``exact``: the target is a file name with its extension."""

    file_id: int
    scope: int
    name: str
    target: str
    exact: bool
    text: str


class Chosen(NamedTuple):
    """The caption of an image and the file it came from."""

    text: str
    source: str
    file_id: int


@dataclass(frozen=True)
class Pairing:
    """The captions of the images, and what became of each caption row."""

    captions: Mapping[str, Chosen]
    fates: Mapping[int, tuple[Fate, str | None, str | None]]
    """Caption row -> fate, reason, image."""


def pair(images: Sequence[ImageFile], captions: Sequence[CaptionFile]) -> Pairing:
    """Match captions to images; rows come oldest first."""
    exact: dict[tuple[int, str], list[str]] = {}
    stems: dict[tuple[int, str], list[str]] = {}
    for row in images:
        exact.setdefault((row.scope, row.name), []).append(row.image)
        stems.setdefault((row.scope, stem(row.name)), []).append(row.image)
    chosen: dict[str, Chosen] = {}
    fates: dict[int, tuple[Fate, str | None, str | None]] = {}
    for caption in captions:
        found = (exact if caption.exact else stems).get((caption.scope, caption.target), [])
        if not found:
            fates[caption.file_id] = (Fate.REJECTED, f"there is no usable image named {caption.target}", None)
        for image in found:
            _choose(chosen, fates, image, caption)
    return Pairing(chosen, fates)


def tidy_name(name: str) -> str:
    """A file's name as it was offered, in the one form in which names are shown and compared; it never is a path.

    Relative, with forward slashes, composed, without what cannot be seen, cut at the front; empty when nothing is left.
    """
    # "C" is control and format characters and half surrogates, which no database keeps as text.
    visible = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c)[0] != "C")
    parts = [part for part in visible.replace("\\", "/").strip("/ ").split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[-MAX_NAME_CHARACTERS:]


def stem(name: str) -> str:
    """A name without its last extension: what a sidecar and its image share."""
    return posixpath.splitext(name)[0]


def beside(metadata_name: str, file_name: str) -> str:
    """The name a metadata file's ``file_name`` has in the archive or upload."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(metadata_name), file_name))


def _choose(
    chosen: dict[str, Chosen],
    fates: dict[int, tuple[Fate, str | None, str | None]],
    image: str,
    caption: CaptionFile,
) -> None:
    earlier = chosen.get(image)
    if earlier is not None and earlier.file_id != caption.file_id:
        same = earlier.text == caption.text
        reason = f"{'says the same as' if same else 'replaced by'} {caption.name}"
        fates[earlier.file_id] = (Fate.DUPLICATE, reason, image)
    chosen[image] = Chosen(caption.text, caption.name, caption.file_id)
    fates[caption.file_id] = (Fate.USED, None, image)
