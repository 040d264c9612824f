"""What the API answers about the ledger of a dataset, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from api import measures
from api.schemas.common import Answer, moment
from catalog.datasets.ledger import Entry, Tally
from contracts.buckets import Bucket, place
from contracts.dataset import Fate
from contracts.layouts import FileKind

FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""As OWASP lists them under CSV injection; an apostrophe before them makes the cell text."""


class PlacementOut(Answer):
    """How an image gets into its bucket: resized to cover it, then cut."""

    bucket: str
    resized_width: int
    resized_height: int
    crop_left: int
    crop_top: int
    upscaling: float
    """Above 1 when the image is smaller than its bucket."""


class LedgerRow(Answer):
    """One file that was offered, a member of an archive, or a line of metadata, and its fate."""

    id: int
    inside: int | None
    """Row of the archive or metadata file it was in."""
    name: str
    kind: str
    bytes: int
    fate: Fate
    reason: str | None
    image: str | None
    """Identity of the image it shows or describes."""
    width: int | None
    height: int | None
    aspect: float | None
    """Width by height."""
    caption: str | None
    caption_source: str | None
    """The file the caption came from, or ``edit`` when a person wrote it."""
    tokens: int | None
    """CLIP tokens of the caption."""
    cut_off: str | None
    """The end of the caption that the model does not read."""
    near_image: str | None
    """Another image of the dataset that looks much like it."""
    placement: PlacementOut | None
    """Where it goes at the ``resolution`` or on the ``base`` that was asked for."""
    offered_at: datetime


class LedgerOut(Answer):
    """Rows of the ledger, in the order they were offered."""

    items: list[LedgerRow]
    next_cursor: str | None
    """Ask again with ``cursor`` set to this; null when these are the last for now."""


class DoubtOut(Answer):
    """Something that was probably not meant, and the first of the files it is about."""

    message: str
    names: list[str]


class TallyOut(Answer):
    """The ledger in numbers: offered = used + duplicate + rejected + pending."""

    offered: int
    used: int
    duplicate: int
    rejected: int
    pending: int
    images: int
    warnings: list[DoubtOut]
    """Freezing refuses while there are any, unless told to go on; none while files are still being read."""


def ledger_row(entry: Entry, tokenizer: Path, buckets: Sequence[Bucket] | None) -> LedgerRow:
    """A ledger row as the API shows it, measured by the model's tokenizer and a run's buckets."""
    row = entry.row
    counted = measures.count(tokenizer, entry.caption)
    return LedgerRow(
        id=row.id,
        inside=row.parent_id,
        name=row.filename,
        kind=row.kind,
        bytes=row.bytes,
        fate=Fate(row.fate),
        reason=row.reason,
        image=row.image,
        width=row.width,
        height=row.height,
        aspect=round(row.width / row.height, 4) if row.width and row.height else None,
        caption=entry.caption,
        caption_source=entry.caption_source,
        tokens=counted[0] if counted else None,
        cut_off=counted[1] if counted else None,
        near_image=entry.near_image,
        placement=_placement(entry, buckets),
        offered_at=moment(row.offered_at),
    )


def tally_out(tally: Tally) -> TallyOut:
    """The numbers as the API shows them."""
    return TallyOut(
        offered=tally.offered,
        used=tally.fates[Fate.USED],
        duplicate=tally.fates[Fate.DUPLICATE],
        rejected=tally.fates[Fate.REJECTED],
        pending=tally.fates[Fate.PENDING],
        images=tally.images,
        warnings=[DoubtOut(message=doubt.message, names=list(doubt.names)) for doubt in tally.doubts],
    )


def csv_lines(rows: Iterable[LedgerRow]) -> Iterator[str]:
    """The rows as CSV with a header, line by line; a placement has columns of its own."""
    line = io.StringIO()
    names = [name for name in LedgerRow.model_fields if name != "placement"]
    writer = csv.DictWriter(line, [*names, *PlacementOut.model_fields])
    writer.writeheader()
    for row in rows:
        yield _taken(line)
        values = row.model_dump(mode="json")
        writer.writerow({**(values["placement"] or {}), **{name: _harmless(values[name]) for name in names}})
    yield _taken(line)


def _harmless(value: Any) -> Any:
    """Spreadsheets run a cell that begins like a formula, and names and captions are whatever somebody offered."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_BEGINS) else value


def _taken(line: io.StringIO) -> str:
    text = line.getvalue()
    line.seek(0)
    line.truncate()
    return text


def _placement(entry: Entry, buckets: Sequence[Bucket] | None) -> PlacementOut | None:
    row = entry.row
    if buckets is None or row.kind != FileKind.IMAGE or not row.width or not row.height:
        return None
    placed = place(row.width, row.height, buckets)
    return PlacementOut(
        bucket=str(placed.bucket),
        resized_width=placed.resized_width,
        resized_height=placed.resized_height,
        crop_left=placed.crop_left,
        crop_top=placed.crop_top,
        upscaling=round(placed.upscaling, 4),
    )
