"""Ledger rows inside others: a file in an archive, a line of metadata, the alpha channel of a picture.

Knows nothing about how they are found or what becomes of them.
"""

from __future__ import annotations

from catalog.datasets.captions import stem
from catalog.datasets.models import DatasetFile
from contracts.dataset import Fate
from contracts.layouts import FileKind

ALPHA_INDEX = -1
"""Place of an alpha channel inside its file: before the captions that an address may be given."""


def child_of(parent: DatasetFile, index: int, name: str, size: int) -> DatasetFile:
    """A row that is still to meet its fate."""
    return DatasetFile(
        owner=parent.owner,
        dataset_id=parent.dataset_id,
        parent_id=parent.id,
        child_index=index,
        filename=name,
        bytes=size,
        fate=Fate.PENDING,
        ingest=parent.ingest,
    )


def alpha_of(picture: DatasetFile, identity: str, blob_key: str, earlier: DatasetFile | None) -> DatasetFile:
    """The alpha channel of a picture that was read, as a mask of the picture's size.

    In the row it had ``earlier``, if the picture was removed and is offered again: that one has its row again, too.
    """
    row = earlier or child_of(picture, ALPHA_INDEX, f"{picture.filename}:alpha", 0)
    row.ingest, row.reason = picture.ingest, None
    row.kind, row.fate, row.target = FileKind.MASK, Fate.USED, stem(picture.filename)
    row.image, row.blob_key, row.width, row.height = identity, blob_key, picture.width, picture.height
    return row
