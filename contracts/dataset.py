"""Images and dataset versions: the columns of a version's Parquet and the digests that name content.

Knows nothing about how images are decoded or where files lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum

from contracts.config import Frozen, digest

COLUMNS = (
    "image",
    "mask",
    "caption",
    "concept",
    "repeats",
    "split",
    "original_width",
    "original_height",
    "source_name",
)
"""The columns of a version's Parquet, in order; image and mask are Hugging Face Image structs {bytes, path}."""

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".avif")
CAPTION_EXTENSIONS = (".txt", ".caption")
DEFAULT_HELD_OUT_SHARE = 0.05
"""Of the images, when nobody says which or how many are held out of training."""


class Split(StrEnum):
    """Which part of a run an image serves."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Fate(StrEnum):
    """What became of an offered file."""

    PENDING = "pending"
    USED = "used"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class DatasetStatus(StrEnum):
    """Whether a dataset can be frozen."""

    INGESTING = "ingesting"
    READY = "ready"
    EMPTY = "empty"


class VersionRow(Frozen):
    """One image of a version, without its pixels: ``image`` is the image identity."""

    image: str
    mask: str | None = None
    caption: str = ""
    concept: str | None = None
    repeats: int = 1
    split: Split = Split.TRAIN
    original_width: int
    original_height: int
    source_name: str


class DatasetSummary(Frozen):
    """What planning needs to know of a version: how many images of which size, in each split."""

    digest: str
    train_sizes: dict[str, int | float]
    """"WIDTHxHEIGHT" -> images in the train split, each as often as an epoch sees it (on average, if weighted)."""
    train_images: int
    """Different images, however often each is repeated."""
    held_out_images: int
    kept_out_images: int = 0
    """Different images that are not trained on because another version of the run holds them out."""
    class_images: int = 0
    """Different class pictures a run has beside all of these (DreamBooth's prior preservation)."""
    live_latents: bool = False
    """Whether pictures are encoded when they are used, however they are cut."""
    live_captions: bool = False
    """Whether captions are, as one of them is worded in too many ways to encode them beforehand."""


def image_identity(width: int, height: int, rgb: bytes) -> str:
    """sha256 of (width, height, RGB pixels after orientation and colour conversion); not of the file.

    Raises:
        ValueError: ``rgb`` is not width x height x 3 bytes.
    """
    if len(rgb) != width * height * 3:
        raise ValueError(f"{width}x{height} RGB needs {width * height * 3} bytes, got {len(rgb)}")
    hasher = hashlib.sha256(f"{width}x{height}:".encode())
    hasher.update(rgb)
    return hasher.hexdigest()


def version_digest(rows: Iterable[VersionRow]) -> str:
    """sha256 over the rows in canonical order: the same content gives the same digest in any upload order.

    ``source_name`` takes part in neither the order nor the digest: a renamed file is the same content.
    """
    content = [row.model_dump(mode="json", exclude={"source_name"}) for row in rows]
    return digest(sorted(content, key=lambda row: (row["image"], row["caption"], row["concept"] or "", row["split"])))


def choose_held_out(images: Iterable[str], share: float, marked: Mapping[str, Split] | None = None) -> frozenset[str]:
    """The images kept from training: those marked so, and the unmarked whose hash falls below ``share``.

    An image's place depends on itself alone, so that a dataset that grows never trains on what an earlier version
    held out. Two exceptions for small sets: a wanted share holds out at least one image, and one is always left.
    """
    everything = set(images)
    marks = {image: split for image, split in (marked or {}).items() if image in everything}
    kept_out = {image for image, split in marks.items() if split is Split.HELD_OUT}
    ranked = sorted(everything - marks.keys(), key=_place)
    if share <= 0 or len(everything) < 2:
        return frozenset(kept_out)
    chosen = [image for image in ranked if _place(image) < share] or ranked[: 0 if kept_out else 1]
    if Split.TRAIN not in marks.values():
        chosen = chosen[: max(len(ranked) - 1, 0)]
    return frozenset(kept_out | set(chosen))


def in_canonical_order(rows: Iterable[VersionRow]) -> list[VersionRow]:
    """Rows as a version's Parquet stores them."""
    return sorted(rows, key=canonical_place)


def canonical_place(row: VersionRow) -> tuple[str, str, str, str]:
    """What rows are ordered by: image identity, then caption, concept, split."""
    return row.image, row.caption, row.concept or "", row.split


def summarise(rows: Iterable[VersionRow]) -> DatasetSummary:
    """Count a version's rows for planning."""
    rows = list(rows)
    sizes: dict[str, int | float] = {}
    for row in rows:
        if row.split is Split.TRAIN:
            size = f"{row.original_width}x{row.original_height}"
            sizes[size] = sizes.get(size, 0) + row.repeats
    return DatasetSummary(
        digest=version_digest(rows),
        train_sizes=dict(sorted(sizes.items())),
        train_images=sum(row.split is Split.TRAIN for row in rows),
        held_out_images=sum(row.split is Split.HELD_OUT for row in rows),
    )


def _place(image: str) -> float:
    return int(hashlib.sha256(f"held-out:{image}".encode()).hexdigest()[:13], 16) / 16**13
