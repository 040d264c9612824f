"""What people change in a dataset: captions, one or all, with undo; images taken out and put back.

Every change is keyed by image identity and names the revision it was based on, so that it neither touches another
image nor overwrites what somebody else changed meanwhile. Knows nothing about how text is rewritten (rewriting.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.orm import Session

from catalog.datasets import repository
from catalog.datasets.models import Dataset, DatasetEdit, DatasetEditChange, DatasetImage
from catalog.datasets.rewriting import Rewriting, tidied
from catalog.datasets.service import find_dataset
from catalog.datasets.settling import settle, settle_removal
from catalog.db import db_now
from contracts.dataset import Fate, Split
from contracts.failures import FailureCode, PatinaError

EDIT = "edit"
"""Source of a caption a person wrote, where others have a file's name."""


class CaptionChange(NamedTuple):
    """One image's caption before and after an edit."""

    image: str
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Images:
    """Some images of a dataset by identity, and the dataset's revision they were read at."""

    items: Sequence[DatasetImage]
    revision: int
    next_cursor: str | None


@dataclass(frozen=True)
class Edited:
    """What an edit changed or would change, and the revision it left."""

    changes: Sequence[CaptionChange]
    images: int
    revision: int


def list_images(
    session: Session, owner: str, dataset_id: str, after: str = "", limit: int = 50, *, removed: bool = False
) -> Images:
    """Images of a dataset, or those taken out of it, by identity.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = find_dataset(session, owner, dataset_id)
    found = repository.images_after(session, owner, dataset.id, after, limit + 1, removed=removed)
    return Images(found[:limit], dataset.captions_revision, found[limit - 1].image if len(found) > limit else None)


def write_caption(
    session: Session, owner: str, dataset_id: str, image: str, caption: str | None, based_on: frozenset[int] | None
) -> Edited:
    """Give one image a caption; None takes a person's word back, and the files' caption holds again.

    Args:
        based_on: revisions the caller has seen; None: whatever it is now.

    Raises:
        InvalidInput: the caption is too long.
        PatinaError: NOT_FOUND, or PRECONDITION_FAILED: it has changed since.
    """
    dataset, found = held_image(session, owner, dataset_id, image, based_on)
    after = None if caption is None else tidied(caption, "/caption")
    return _edit(session, dataset, "write", [(found, after)])


def rewrite_captions(
    session: Session,
    owner: str,
    dataset_id: str,
    action: str,
    rewriting: Rewriting,
    based_on: frozenset[int] | None,
) -> Edited:
    """Rewrite the caption of every image in the dataset.

    Raises:
        InvalidInput: a caption would become too long.
        PatinaError: NOT_FOUND, or PRECONDITION_FAILED: it has changed since.
    """
    dataset = _held(session, owner, dataset_id, based_on)
    images = repository.images(session, owner, dataset.id)
    return _edit(session, dataset, action, _rewritten(images, rewriting), len(images))


def preview_rewriting(session: Session, owner: str, dataset_id: str, rewriting: Rewriting) -> Edited:
    """What ``rewrite_captions`` would change; writes nothing.

    Raises:
        InvalidInput: a caption would become too long.
        PatinaError: NOT_FOUND.
    """
    dataset = find_dataset(session, owner, dataset_id)
    images = repository.images(session, owner, dataset.id)
    changes = [
        CaptionChange(image.image, image.source_name, image.current_caption, after)
        for image, after in _rewritten(images, rewriting)
    ]
    return Edited(changes, len(images), dataset.captions_revision)


def undo(session: Session, owner: str, dataset_id: str, based_on: frozenset[int] | None) -> Edited:
    """Take back the last edit of captions that has not been taken back.

    Raises:
        PatinaError: NOT_FOUND, PRECONDITION_FAILED, or CONFLICT: nothing is left to undo.
    """
    dataset = _held(session, owner, dataset_id, based_on)
    edit = repository.newest_edit(session, owner, dataset.id)
    if edit is None:
        raise PatinaError(FailureCode.CONFLICT, "No edit of a caption is left to undo.", "Nothing to do.")
    edit.undone_at = db_now()
    changes = []
    for image, change in repository.edited_images(session, edit):
        before = image.current_caption
        image.edited_caption = change.before
        changes.append(CaptionChange(image.image, image.source_name, before, image.current_caption))
    return _settled(session, dataset, changes, len(changes))


def remove_image(session: Session, owner: str, dataset_id: str, image: str, based_on: frozenset[int] | None) -> int:
    """Take an image out of the dataset; frozen versions keep it, and no other image is touched. Gives the revision.

    Raises:
        PatinaError: NOT_FOUND, or PRECONDITION_FAILED: it has changed since.
    """
    dataset, found = held_image(session, owner, dataset_id, image, based_on)
    if found.removed_at is None:
        found.removed_at = db_now()
        settle_removal(session, dataset, found.image)
    return dataset.captions_revision


def restore_image(session: Session, owner: str, dataset_id: str, image: str, based_on: frozenset[int] | None) -> int:
    """Put an image back that was taken out, with its caption. Gives the revision.

    Raises:
        PatinaError: NOT_FOUND, or PRECONDITION_FAILED: it has changed since.
    """
    dataset, found = held_image(session, owner, dataset_id, image, based_on)
    if found.removed_at is not None:
        found.removed_at = None
        first = repository.file(session, owner, found.file_id)
        if first is not None:
            first.fate = Fate.USED
        settle(session, owner, dataset.id)
    return dataset.captions_revision


def mark_image(
    session: Session, owner: str, dataset_id: str, image: str, split: Split | None, based_on: frozenset[int] | None
) -> int:
    """Keep an image in a split from now on; None leaves it to the content hash again. Gives the revision.

    Raises:
        PatinaError: NOT_FOUND, or PRECONDITION_FAILED: it has changed since.
    """
    dataset, found = held_image(session, owner, dataset_id, image, based_on)
    if found.split_mark != split:
        found.split_mark = split
        dataset.captions_revision += 1
        session.flush()
    return dataset.captions_revision


def read_image(session: Session, owner: str, dataset_id: str, image: str) -> DatasetImage:
    """One image of a dataset, also when it was taken out.

    Raises:
        PatinaError: NOT_FOUND.
    """
    return _image(session, find_dataset(session, owner, dataset_id), image)


def held_image(
    session: Session, owner: str, dataset_id: str, image: str, based_on: frozenset[int] | None
) -> tuple[Dataset, DatasetImage]:
    """A dataset, locked until the transaction ends, and one of its images, for the modules beside this one.

    Raises:
        PatinaError: NOT_FOUND, or PRECONDITION_FAILED: it has changed since.
    """
    dataset = _held(session, owner, dataset_id, based_on)
    return dataset, _image(session, dataset, image)


def _held(session: Session, owner: str, dataset_id: str, based_on: frozenset[int] | None) -> Dataset:
    """The dataset, locked until the transaction ends, at a revision the caller knows."""
    dataset = repository.lock(session, owner, find_dataset(session, owner, dataset_id).id)
    if dataset is None:
        raise PatinaError(FailureCode.NOT_FOUND)
    session.refresh(dataset)
    if based_on is not None and dataset.captions_revision not in based_on:
        message = f"The images or captions of '{dataset.name}' have changed since you read them."
        raise PatinaError(FailureCode.PRECONDITION_FAILED, message)
    return dataset


def _image(session: Session, dataset: Dataset, identity: str) -> DatasetImage:
    found = repository.image(session, dataset.owner, dataset.id, identity)
    if found is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"'{dataset.name}' has no image {identity}.")
    return found


def _rewritten(images: Iterable[DatasetImage], rewriting: Rewriting) -> list[tuple[DatasetImage, str | None]]:
    """The images whose caption changes, each with the new one."""
    found: list[tuple[DatasetImage, str | None]] = []
    for image in images:
        after = tidied(rewriting(image.current_caption or ""), "")
        if after != (image.current_caption or ""):
            found.append((image, after))
    return found


def _edit(
    session: Session,
    dataset: Dataset,
    action: str,
    wanted: Sequence[tuple[DatasetImage, str | None]],
    images: int = 1,
) -> Edited:
    wanted = [(image, after) for image, after in wanted if image.edited_caption != after]
    if not wanted:
        return Edited([], images, dataset.captions_revision)
    edit = DatasetEdit(owner=dataset.owner, dataset_id=dataset.id, action=action)
    session.add(edit)
    session.flush()
    changes = []
    for image, after in wanted:
        before, text = image.edited_caption, image.current_caption
        session.add(
            DatasetEditChange(owner=dataset.owner, edit_id=edit.id, image=image.image, before=before, after=after)
        )
        image.edited_caption = after
        changes.append(CaptionChange(image.image, image.source_name, text, image.current_caption))
    return _settled(session, dataset, changes, images)


def _settled(session: Session, dataset: Dataset, changes: Sequence[CaptionChange], images: int) -> Edited:
    dataset.captions_revision += 1
    session.flush()
    return Edited(changes, images, dataset.captions_revision)
