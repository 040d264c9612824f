"""What the API answers about the versions of a dataset and what two of them differ in."""

from __future__ import annotations

from api.schemas.common import Answer
from catalog.datasets.comparing import Difference, changes
from contracts.dataset import VersionRow


class RowOut(Answer):
    """An image of a version."""

    image: str
    name: str
    caption: str


class ChangeOut(Answer):
    """What of an image is not what it was."""

    what: str
    """`split`, `repeats`, `concept`, or `mask`, which is told by its image identity."""
    before: str | int | None
    after: str | int | None


class PairOut(Answer):
    """An image of both versions and its caption in each."""

    image: str
    name: str
    before: str
    after: str
    changes: list[ChangeOut]
    """What else changed."""


class ChangedOut(RowOut):
    """An image of both versions, with the same caption in each."""

    changes: list[ChangeOut]


class DifferenceOut(Answer):
    """What became of the images between two versions."""

    version: int
    against: int
    same: bool
    """Whether the two have the same content."""
    added: list[RowOut]
    removed: list[RowOut]
    caption_changed: list[PairOut]
    otherwise_changed: list[ChangedOut]
    """The same caption, but another mask, concept, number of repeats or split."""


def difference_out(version: int, against: int, found: Difference) -> DifferenceOut:
    """A comparison as the API shows it."""
    return DifferenceOut(
        version=version,
        against=against,
        same=not (found.added or found.removed or found.recaptioned or found.altered),
        added=[_row(row) for row in found.added],
        removed=[_row(row) for row in found.removed],
        caption_changed=[
            PairOut(
                image=old.image,
                name=new.source_name,
                before=old.caption,
                after=new.caption,
                changes=_changes(old, new),
            )
            for old, new in found.recaptioned
        ],
        otherwise_changed=[
            ChangedOut(image=new.image, name=new.source_name, caption=new.caption, changes=_changes(old, new))
            for old, new in found.altered
        ],
    )


def _row(row: VersionRow) -> RowOut:
    return RowOut(image=row.image, name=row.source_name, caption=row.caption)


def _changes(older: VersionRow, newer: VersionRow) -> list[ChangeOut]:
    return [ChangeOut(what=one.what, before=one.before, after=one.after) for one in changes(older, newer)]
