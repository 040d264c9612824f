"""Which files of the ledger came together, and so which picture a caption or mask beside it means: pure functions.

Two folders uploaded to one dataset may both have a ``000.png`` and a ``000.txt``. What tells them apart is that no
folder has a name twice, and that a reading (``DatasetIngest``) ends when nothing is left to be read. Knows nothing
about SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from catalog.datasets.gathered import FileLine

UNCLEAR = "which picture it is for is not clear"
NONE_OF_ITS_OWN = "no caption: that of its name is for another upload's picture"
HOW_TO_TELL_APART = "upload the folders as one, from the folder they lie in"


class Shown(Protocol):
    """A ledger row that shows an image; ``image`` is None when it could not be read."""

    @property
    def file_id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def upload(self) -> int: ...

    @property
    def image(self) -> str | None: ...


T = TypeVar("T", bound=Shown)


def number_uploads(files: Sequence[FileLine]) -> dict[int, int]:
    """Ledger row -> number of the upload it came with, oldest first; what was inside a file came with that file."""
    numbers: dict[int, int] = {}
    seen: set[str] = set()
    number, reading = 0, -1
    offered = (row for row in files if row.parent_id is None)
    for row in sorted(offered, key=lambda row: (row.ingest or 0, row.id)):
        if (row.ingest or 0) != reading or row.filename in seen:
            number, reading, seen = number + 1, row.ingest or 0, set()
        seen.add(row.filename)
        numbers[row.id] = number
    for row in files:
        if row.parent_id is not None:
            numbers[row.id] = numbers.get(row.parent_id, 0)
    return numbers


def came_with(named: Sequence[T], upload: int) -> list[T]:
    """Of the pictures that something names, those it came with."""
    return [row for row in named if row.upload == upload and row.image is not None]


def meant(named: Sequence[T], upload: int, served: Collection[int]) -> list[T] | None:
    """The pictures that something means which names them: those it came with, else those of one other upload.

    Args:
        named: the pictures of the name, whatever they came with.
        upload: what it came with itself.
        served: those of them (``file_id``) that came with something of the kind: nothing that came before is theirs.

    Returns:
        None when different pictures of several uploads may be meant.
    """
    own = came_with(named, upload)
    if own:
        return own
    usable = [row for row in named if row.image is not None]
    earlier = [row for row in usable if row.upload < upload]
    later = [row for row in usable if row.upload > upload]
    unserved = [row for row in later if row.file_id not in served]
    alone = all(row.upload != upload for row in named)
    if not (alone and earlier):
        # One whose own picture could not be read is for none that another upload has, until that one comes again.
        coming = later if alone else unserved
        first = min((row.upload for row in coming), default=None)
        return [row for row in coming if row.upload == first]
    there = [*earlier, *unserved]
    every = {row.image for row in there}
    clear = any(
        {row.image for row in there if row.upload == number} == every for number in {row.upload for row in there}
    )
    return there if clear else None


def why_none(named: Sequence[Shown], for_these: Sequence[Shown] | None, what: str) -> str | None:
    """Why a caption or mask is for none of the pictures it names; None when none of them is usable."""
    if for_these is None:
        called = ", ".join(dict.fromkeys(row.name for row in named))
        return f"{UNCLEAR}: different ones called {called} came with other uploads; {HOW_TO_TELL_APART}"
    if any(row.image is not None for row in named):
        return f"its own picture is not there, and every other of its name came with a {what} of its own"
    return None
