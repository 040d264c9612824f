"""What two versions differ in: pure comparison of their rows. Knows nothing about queries or files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contracts.dataset import VersionRow


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
        altered=[pair for pair in both if pair[0].caption == pair[1].caption and _content(*pair)],
    )


def _content(one: VersionRow, other: VersionRow) -> bool:
    return one.model_copy(update={"source_name": other.source_name}) != other
