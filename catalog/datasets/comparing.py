"""What two versions differ in: pure comparison of their rows. Knows nothing about queries or files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contracts.dataset import VersionRow

TOLD = [name for name in VersionRow.model_fields if name not in ("image", "caption", "source_name")]
"""Fields whose change is told as such: not what is compared by or told apart, nor the name of a file."""


class Change(NamedTuple):
    """A field of a row that is not what it was: split, repeats, concept or mask."""

    what: str
    before: str | int | None
    after: str | int | None


@dataclass(frozen=True)
class Difference:
    """Rows of the newer version alone, of the older alone, and pairs (older, newer) of one image."""

    added: Sequence[VersionRow]
    removed: Sequence[VersionRow]
    recaptioned: Sequence[tuple[VersionRow, VersionRow]]
    altered: Sequence[tuple[VersionRow, VersionRow]]
    """The same caption, but another mask, concept, number of repeats or split."""


def compare(older: Iterable[VersionRow], newer: Iterable[VersionRow]) -> Difference:
    """What became of each image between two versions; names of files do not count."""
    before = {row.image: row for row in older}
    after = {row.image: row for row in newer}
    both = [(before[image], after[image]) for image in before if image in after]
    return Difference(
        added=[row for image, row in after.items() if image not in before],
        removed=[row for image, row in before.items() if image not in after],
        recaptioned=[pair for pair in both if pair[0].caption != pair[1].caption],
        altered=[pair for pair in both if pair[0].caption == pair[1].caption and changes(*pair)],
    )


def changes(older: VersionRow, newer: VersionRow) -> list[Change]:
    """What of an image changed between two versions beside its caption."""
    sides = [(what, getattr(older, what), getattr(newer, what)) for what in TOLD]
    return [Change(what, before, after) for what, before, after in sides if before != after]
