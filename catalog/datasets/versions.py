"""What a version is made of: pure functions over images. Knows nothing about SQL or files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

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


def assemble(images: Sequence[VersionImage], share: float) -> list[VersionImage]:
    """The images in canonical order, each in its split."""
    kept_out = held_out((image.row.image for image in images), share)
    by_image = {image.row.image: image.blob_key for image in images}
    rows = [
        image.row.model_copy(update={"split": Split.HELD_OUT if image.row.image in kept_out else Split.TRAIN})
        for image in images
    ]
    return [VersionImage(row, by_image[row.image]) for row in in_canonical_order(rows)]


def _place(image: str) -> float:
    return int(hashlib.sha256(f"held-out:{image}".encode()).hexdigest()[:13], 16) / 16**13
