"""What a version is made of: pure functions over images. Knows nothing about queries or files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from catalog.datasets.models import DatasetImage, DatasetVersionRow
from contracts.dataset import Split, VersionRow, in_canonical_order


class VersionImage(NamedTuple):
    """A row of a version and where the pixels of its image lie."""

    row: VersionRow
    blob_key: str


def held_out(images: Iterable[str], share: float) -> frozenset[str]:
    """The images kept from training: those whose hash falls below ``share``.

    An image's place depends on itself alone, so that a dataset that grows never trains on what an earlier version
    held out. Two exceptions for small sets: a wanted share holds out at least one image, and one is always left.
    """
    ranked = sorted(images, key=_place)
    if share <= 0 or len(ranked) < 2:
        return frozenset()
    chosen = [image for image in ranked if _place(image) < share] or ranked[:1]
    return frozenset(chosen[: len(ranked) - 1])


def assemble(images: Iterable[VersionImage], share: float) -> list[VersionImage]:
    """The images in canonical order, each in its split."""
    images = list(images)
    kept_out = held_out((image.row.image for image in images), share)
    by_image = {image.row.image: image.blob_key for image in images}
    rows = [
        image.row.model_copy(update={"split": Split.HELD_OUT if image.row.image in kept_out else Split.TRAIN})
        for image in images
    ]
    return [VersionImage(row, by_image[row.image]) for row in in_canonical_order(rows)]


def current_image(image: DatasetImage) -> VersionImage:
    """An image of a dataset as a version would have it, before the split is chosen."""
    row = VersionRow(
        image=image.image,
        caption=image.caption or "",
        original_width=image.width,
        original_height=image.height,
        source_name=image.source_name,
    )
    return VersionImage(row, image.blob_key)


def frozen_image(stored: DatasetVersionRow) -> VersionImage:
    """An image of a version as it was frozen."""
    row = VersionRow(
        image=stored.image,
        caption=stored.caption,
        concept=stored.concept,
        repeats=stored.repeats,
        split=Split(stored.split),
        original_width=stored.original_width,
        original_height=stored.original_height,
        source_name=stored.source_name,
    )
    return VersionImage(row, stored.blob_key)


def _place(image: str) -> float:
    return int(hashlib.sha256(f"held-out:{image}".encode()).hexdigest()[:13], 16) / 16**13
