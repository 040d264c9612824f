"""What a version is made of: pure functions over images. Knows nothing about queries or files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from catalog.datasets.models import DatasetImage, DatasetVersionRow
from contracts.dataset import Split, VersionRow, choose_held_out, in_canonical_order


class VersionImage(NamedTuple):
    """A row of a version and where the pixels of its image and mask lie."""

    row: VersionRow
    blob_key: str
    mask_key: str | None = None


def assemble(
    images: Iterable[VersionImage], share: float, marked: Mapping[str, Split] | None = None
) -> list[VersionImage]:
    """The images in canonical order, each in the split somebody marked or its content hash chooses."""
    images = list(images)
    kept_out = choose_held_out((image.row.image for image in images), share, marked)
    by_image = {image.row.image: image for image in images}
    rows = [
        image.row.model_copy(update={"split": Split.HELD_OUT if image.row.image in kept_out else Split.TRAIN})
        for image in images
    ]
    return [by_image[row.image]._replace(row=row) for row in in_canonical_order(rows)]


def current_image(image: DatasetImage) -> VersionImage:
    """An image of a dataset as a version would have it, before the split is chosen."""
    row = VersionRow(
        image=image.image,
        mask=image.mask,
        caption=image.current_caption or "",
        concept=image.concept,
        repeats=image.repeats,
        original_width=image.width,
        original_height=image.height,
        source_name=image.source_name,
    )
    return VersionImage(row, image.blob_key, image.mask_key)


def frozen_image(stored: DatasetVersionRow) -> VersionImage:
    """An image of a version as it was frozen."""
    row = VersionRow(
        image=stored.image,
        mask=stored.mask,
        caption=stored.caption,
        concept=stored.concept,
        repeats=stored.repeats,
        split=Split(stored.split),
        original_width=stored.original_width,
        original_height=stored.original_height,
        source_name=stored.source_name,
    )
    return VersionImage(row, stored.blob_key, stored.mask_key)
