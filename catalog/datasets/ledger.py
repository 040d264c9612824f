"""The ledger as its owner reads it: every file offered, its fate, and the caption and likeness its image has now.

Knows nothing about tokens or buckets, which depend on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog.datasets import repository
from catalog.datasets.doubts import Doubt, find_doubts
from catalog.datasets.editing import EDIT
from catalog.datasets.models import DatasetFile, DatasetImage
from catalog.datasets.service import find_dataset
from catalog.db import Database
from contracts.dataset import Fate
from contracts.layouts import FileKind

ROWS_A_READ = 1000


@dataclass(frozen=True)
class Entry:
    """A ledger row and the image it shows or describes, when that is one of the dataset's."""

    row: DatasetFile
    image: DatasetImage | None

    @property
    def caption(self) -> str | None:
        """Of an image in use, the caption it has now; of a caption, its own text."""
        return self.image.current_caption if self._edited and self.image else self.row.caption

    @property
    def caption_source(self) -> str | None:
        """Name of the file the caption came from, or that it is an edit."""
        return EDIT if self._edited else self.row.caption_source

    @property
    def near_image(self) -> str | None:
        """The image it looks much like."""
        return self.image.near_image if self.image and self.row.kind == FileKind.IMAGE else None

    @property
    def _edited(self) -> bool:
        used = self.row.kind == FileKind.IMAGE and self.row.fate == Fate.USED
        return used and self.image is not None and self.image.edited_caption is not None


@dataclass(frozen=True)
class Tally:
    """The ledger in numbers: offered = used + duplicate + rejected + pending."""

    offered: int
    fates: dict[Fate, int]
    images: int
    doubts: Sequence[Doubt]


def read(
    session: Session,
    owner: str,
    dataset_id: str,
    fate: Fate | None = None,
    after_id: int = 0,
    limit: int = ROWS_A_READ,
) -> list[Entry]:
    """Rows of one fate or all in the order they were offered, those after row ``after_id``.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = find_dataset(session, owner, dataset_id)
    found = repository.ledger_rows(session, owner, dataset.id, fate, after_id, limit)
    return [Entry(row, image) for row, image in found]


def read_all(database: Database, owner: str, dataset_id: str, fate: Fate | None = None) -> Iterator[Entry]:
    """Every row, a part at a time, each in a transaction of its own: however long the reader takes, none stays open.

    Raises:
        PatinaError: NOT_FOUND.
    """
    after_id = 0
    while True:
        with database.reading() as session:
            part = read(session, owner, dataset_id, fate, after_id)
        yield from part
        if len(part) < ROWS_A_READ:
            return
        after_id = part[-1].row.id


def tally(session: Session, owner: str, dataset_id: str) -> Tally:
    """What became of everything offered, in numbers, and what looks doubtful about it.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = find_dataset(session, owner, dataset_id)
    counted = repository.fates(session, owner, dataset.id)
    fates = {fate: counted.get(fate, 0) for fate in Fate}
    counts = repository.counts(session, owner, [dataset.id])[dataset.id]
    # Captions that have not been brought to their pictures yet are no slip of anybody's.
    doubts = [] if counts.pending or counts.being_read else find_doubts(session, owner, dataset.id)
    return Tally(sum(counted.values()), fates, counts.images, doubts)
