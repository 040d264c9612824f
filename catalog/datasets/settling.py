"""Captions, masks and concepts brought together with their images, whenever a pass over the uploads ends.

Everything is worked out anew from the ledger, so that files may come in any order and doing it twice changes nothing.
Taking one image out is the exception: nothing that others have depends on it but what they look like.
Knows nothing about jobs or about what people edit.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy.orm import Session

from catalog.datasets import captions, repository
from catalog.datasets.arrivals import NONE_OF_ITS_OWN, number_uploads
from catalog.datasets.captions import Chosen, Naming, Pairing
from catalog.datasets.gathered import KINDS, FileLine, ImageLine, gather, write_back
from catalog.datasets.likeness import nearest, nearest_of
from catalog.datasets.masks import Masked, MaskFile, match_masks
from catalog.datasets.models import Dataset
from catalog.datasets.wording import says_something
from contracts.dataset import Fate
from contracts.layouts import KOHYA_METADATA_EXTENSION, FileKind, concept_folder

REMOVED = "its image was taken out of the dataset"
NO_CAPTION = "no caption: trained with the trigger word alone"

TELLING = (FileKind.METADATA, FileKind.TABLE, FileKind.IMAGE, FileKind.URL)
"""Kinds of files that hold captions; of pictures those that were offered with one, by address."""

T = TypeVar("T")


def settle(session: Session, owner: str, dataset_id: str) -> None:
    """Pair captions, masks and images anew from the ledger."""
    dataset = repository.lock(session, owner, dataset_id)
    all_of_it = gather(session, owner, dataset_id)
    images, rows = all_of_it.images, {kind: [row for row in all_of_it.files if row.kind == kind] for kind in KINDS}
    shown, written = rows[FileKind.IMAGE], rows[FileKind.CAPTION]
    parents = {row.id: row for kind in TELLING for row in rows[kind]}
    uploads = number_uploads(all_of_it.files)
    told = [row for row in written if row.target is not None and says_something(row)]
    pairing = captions.pair(
        [captions.ImageFile(row.id, row.parent_id or 0, row.filename, row.image, uploads[row.id]) for row in shown],
        [_caption_file(row, parents)._replace(upload=uploads[row.id]) for row in told],
    )
    for row in written:
        if row.id in pairing.fates:
            row.fate, row.reason, row.image = pairing.fates[row.id]
    _settle_images(images, shown, {row.id: row for row in written}, pairing)
    _settle_duplicates(images, shown)
    _settle_masks(images, shown, rows[FileKind.MASK], uploads)
    looks_like = nearest({image.image: image.likeness for image in images.values() if image.likeness})
    for image in images.values():
        image.near_image = looks_like.get(image.image)
    for row in all_of_it.files:
        if row.fate == Fate.USED and row.image in all_of_it.removed:
            row.fate, row.reason = Fate.REJECTED, REMOVED
    write_back(session, all_of_it)
    if dataset is not None:
        dataset.captions_revision += 1


def settle_removal(session: Session, dataset: Dataset, image: str) -> None:
    """One image was just taken out: what ``settle`` would change for that, and no more work than it takes."""
    session.flush()
    repository.reject_removed(session, dataset.owner, dataset.id, image, REMOVED)
    alone = repository.images_looking_like(session, dataset.owner, dataset.id, image)
    if alone:
        hashes = repository.likenesses(session, dataset.owner, dataset.id)
        looks_like = nearest_of([one.image for one in alone], hashes)
        for one in alone:
            one.near_image = looks_like.get(one.image)
    dataset.captions_revision += 1
    session.flush()


def _settle_images(
    images: dict[str, ImageLine],
    shown: Sequence[FileLine],
    written: dict[int, FileLine],
    pairing: Pairing,
) -> None:
    for row in shown:
        if row.fate != Fate.USED or not row.image or row.image not in images:
            continue
        image = images[row.image]
        chosen = pairing.captions.get(row.image)
        said = [written[file_id] for file_id in pairing.naming.get(row.image, ())]
        image.concept = _last(one.concept for one in said) or row.concept
        image.repeats = _last(one.repeats for one in said) or row.repeats or 1
        image.split = _last(one.split for one in said)
        chosen = chosen or _of_folder(row)
        image.caption, image.caption_source = (chosen.text, chosen.source) if chosen else (None, None)
        row.caption, row.caption_source = image.caption, image.caption_source
        bare = None if chosen else NONE_OF_ITS_OWN if row.image in pairing.elsewhere else NO_CAPTION
        row.reason = "; ".join(said for said in (row.note, bare) if said) or None


def _settle_duplicates(images: dict[str, ImageLine], shown: Sequence[FileLine]) -> None:
    """A picture in two of kohya's folders counts as the first says; the other one's word is not dropped unsaid."""
    for row in shown:
        image = images.get(row.image or "")
        if row.fate != Fate.DUPLICATE or image is None:
            continue
        row.reason = f"the same picture as {image.source_name}"
        if row.repeats and (row.concept, row.repeats) != (image.concept, image.repeats):
            named = f" as '{image.concept}'" if image.concept else ""
            row.reason += f", which counts {image.repeats}x an epoch{named}, not {row.repeats}x as '{row.concept}'"


def _last(values: Iterable[T | None]) -> T | None:
    """What was said last."""
    found = None
    for value in values:
        found = found if value is None else value
    return found


def _of_folder(row: FileLine) -> Chosen | None:
    """An image without a caption of its own is called by its folder's words, as kohya's trainer does."""
    folder = concept_folder(row.filename)
    return Chosen(row.concept, f"{folder.name}/", row.id) if folder and row.concept else None


def _settle_masks(
    images: dict[str, ImageLine], shown: Sequence[FileLine], offered: Sequence[FileLine], uploads: dict[int, int]
) -> None:
    rows = {row.id: row for row in offered if row.image and row.blob_key}
    pictures = {row.id: row.image for row in shown}
    found = match_masks(
        [Masked(row.id, row.parent_id or 0, row.filename, row.image, _size(row), uploads[row.id]) for row in shown],
        [
            MaskFile(row.id, scope, row.filename, row.target or "", _size(row), pictures.get(scope), uploads[row.id])
            for row in rows.values()
            for scope in [row.parent_id or 0]
        ],
    )
    for file_id, (fate, reason) in found.fates.items():
        row = rows[file_id]
        row.fate, row.reason = fate, "; ".join(said for said in (row.note, reason) if said) or None
    for image in images.values():
        mask = rows.get(found.masks.get(image.image, 0))
        image.mask, image.mask_key = (mask.image, mask.blob_key) if mask else (None, None)


def _size(row: FileLine) -> tuple[int, int]:
    return row.width or 0, row.height or 0


def _caption_file(row: FileLine, parents: dict[int, FileLine]) -> captions.CaptionFile:
    """The files a metadata file names lie where it lies, those a table names inside it; an address names itself."""
    parent = parents.get(row.parent_id or 0)
    target, text = row.target or "", row.caption
    if parent is None:
        return captions.CaptionFile(row.id, row.parent_id or 0, row.filename, target, Naming.SIDECAR, text)
    scope = parent.id if parent.kind == FileKind.TABLE else parent.parent_id or 0
    if parent.kind in (FileKind.IMAGE, FileKind.URL):
        return captions.CaptionFile(row.id, scope, row.filename, target, Naming.WHOLE, text)
    naming = Naming.KEY if parent.filename.lower().endswith(KOHYA_METADATA_EXTENSION) else Naming.LINE
    folder = posixpath.dirname(parent.filename)
    return captions.CaptionFile(row.id, scope, row.filename, target, naming, text, folder)
