"""What is true of a dataset that its owner probably did not mean, told before freezing. Knows nothing about HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from catalog.datasets.arrivals import NONE_OF_ITS_OWN, UNCLEAR
from catalog.datasets.models import DatasetFile, DatasetImage
from contracts.dataset import DEFAULT_HELD_OUT_SHARE, Fate, Split
from contracts.layouts import FileKind

SHARE = 0.5
"""From this share on, captions without image or images without caption are no slip."""
NAMED = 20


@dataclass(frozen=True)
class Doubt:
    """A sentence, and the first of the files it is about."""

    message: str
    names: Sequence[str]


def find_doubts(
    session: Session, owner: str, dataset_id: str, held_out_share: float = DEFAULT_HELD_OUT_SHARE
) -> list[Doubt]:
    """Everything doubtful at once, when so much is to be held out; empty when the dataset looks as meant."""
    written = select(DatasetFile).where(
        DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id, DatasetFile.kind == FileKind.CAPTION
    )
    # Rows that tell of a split or repeats alone offer no caption.
    written = written.where(or_(DatasetFile.caption.is_not(None), DatasetFile.fate != Fate.USED))
    lost = written.where(
        DatasetFile.fate == Fate.REJECTED, DatasetFile.caption.is_not(None), DatasetFile.image.is_(None)
    )
    shown = select(DatasetImage).where(
        DatasetImage.owner == owner, DatasetImage.dataset_id == dataset_id, DatasetImage.removed_at.is_(None)
    )
    text = func.coalesce(DatasetImage.edited_caption, DatasetImage.caption, "")
    bare = shown.where(text == "")
    captions, images = _count(session, written), _count(session, shown)
    found = []
    unmatched = _count(session, lost)
    if unmatched and unmatched >= SHARE * captions:
        names = session.scalars(lost.order_by(DatasetFile.id).limit(NAMED)).all()
        message = f"{unmatched} of {captions} captions match no image"
        found.append(Doubt(message, [row.filename for row in names]))
    silent = _count(session, bare)
    if captions and silent and silent >= SHARE * images:
        names_of = session.scalars(bare.order_by(DatasetImage.file_id).limit(NAMED)).all()
        message = f"{silent} of {images} images have no caption, though captions were offered"
        found.append(Doubt(message, [image.source_name for image in names_of]))
    found += _mixed_up(session, owner, dataset_id, bare)
    if held_out_share > 0 and images > 1 and _all_said_to_be_trained_on(session, shown, images):
        names_of = session.scalars(shown.order_by(DatasetImage.file_id).limit(NAMED)).all()
        message = "the files say of every image that it is trained on, so none is held out to measure on"
        found.append(Doubt(message, [image.source_name for image in names_of]))
    return found


def in_words(doubts: Sequence[Doubt]) -> str:
    """All of them as sentences, with the files they are about."""
    return " ".join(f"{doubt.message}: {', '.join(doubt.names)}." for doubt in doubts)


def _mixed_up(session: Session, owner: str, dataset_id: str, bare: Select[Any]) -> list[Doubt]:
    """Files of several uploads that have one name: what is for neither picture, and pictures that so have nothing."""
    offered = select(DatasetFile).where(DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id)
    unclear = offered.where(DatasetFile.fate == Fate.REJECTED, DatasetFile.reason.contains(UNCLEAR, autoescape=True))
    found = []
    if count := _count(session, unclear):
        names = session.scalars(unclear.order_by(DatasetFile.id).limit(NAMED)).all()
        message = f"{count} captions or masks may be for different pictures of one name, and are for none of them"
        found.append(Doubt(message, [row.filename for row in names]))
    passed = offered.where(DatasetFile.reason.contains(NONE_OF_ITS_OWN, autoescape=True))
    nameless = bare.where(DatasetImage.file_id.in_(passed.with_only_columns(DatasetFile.id)))
    if count := _count(session, nameless):
        images = session.scalars(nameless.order_by(DatasetImage.file_id).limit(NAMED)).all()
        message = f"{count} images have no caption: those of their names are for other uploads' pictures"
        found.append(Doubt(message, [image.source_name for image in images]))
    return found


def _all_said_to_be_trained_on(session: Session, shown: Select[Any], images: int) -> bool:
    """By metadata that knows no other split; a person who marks every image means it."""
    trained_on = shown.where(func.coalesce(DatasetImage.split_mark, DatasetImage.split) == Split.TRAIN)
    by_files = trained_on.where(DatasetImage.split_mark.is_(None))
    return _count(session, trained_on) == images and _count(session, by_files) > 0


def _count(session: Session, query: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0
