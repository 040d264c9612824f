"""What a file says of an image, taken into its ledger row: caption, concept, repeats, split, and words for its owner.

Knows nothing about queries, or which image is meant (captions.py).
"""

from __future__ import annotations

from typing import Protocol

from catalog.datasets.captions import visible
from catalog.datasets.gathered import FileLine
from catalog.datasets.models import DatasetFile
from contracts.captions import MAX_CAPTION_CHARACTERS, clean_caption
from contracts.dataset import Fate, Split
from contracts.layouts import MAX_REPEATS, concept_folder
from contracts.urls import is_url

MAX_CONCEPT_CHARACTERS = 200
MAX_WORDS_CHARACTERS = 500


class Told(Protocol):
    """What metadata tells of an image beside its caption."""

    @property
    def concept(self) -> str | None: ...
    @property
    def repeats(self) -> int | None: ...
    @property
    def split(self) -> Split | None: ...


def take_text(row: DatasetFile, text: str, told: Told | None = None) -> None:
    """A caption, and what else its metadata tells; without words it is of use when it tells anything."""
    cleaned = clean_caption(text)
    if len(cleaned) > MAX_CAPTION_CHARACTERS:
        row.fate, row.reason = Fate.REJECTED, f"the caption is longer than {MAX_CAPTION_CHARACTERS} characters"
        return
    if told is not None:
        row.concept, row.repeats, row.split = _concept(told.concept), _repeats(told.repeats), told.split
    row.caption, row.fate = cleaned or None, Fate.USED
    if not says_something(row):
        row.fate, row.reason = Fate.REJECTED, "the caption is empty"


def says_something(row: DatasetFile | FileLine) -> bool:
    """Whether a caption row has a caption or tells anything else of its image."""
    return any(said is not None for said in (row.caption, row.concept, row.repeats, row.split))


def take_concept(row: DatasetFile) -> None:
    """What a kohya folder says of an image."""
    folder = None if is_url(row.filename) else concept_folder(row.filename)
    if folder is None:
        return
    row.concept, row.repeats = _concept(folder.words), folder.repeats
    told = f"{row.repeats}x an epoch as '{row.concept}', by its folder"
    row.note = f"{row.note}; {told}" if row.note else told


def words(text: str | None) -> str | None:
    """Words for the ledger: they may quote names of columns, which can hold what no database takes for text."""
    return None if text is None else visible(text)[:MAX_WORDS_CHARACTERS]


def _concept(concept: str | None) -> str | None:
    return clean_caption(concept or "")[:MAX_CONCEPT_CHARACTERS].rstrip() or None


def _repeats(repeats: int | None) -> int | None:
    return repeats if repeats is not None and 1 <= repeats <= MAX_REPEATS else None
