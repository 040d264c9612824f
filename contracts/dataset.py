"""Images and dataset versions: the columns of a version's Parquet and the digests that name content.

Knows nothing about how images are decoded or where files lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
CAPTION_EXTENSIONS = (".txt", ".caption")


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
    train_sizes: dict[str, int]
    """"WIDTHxHEIGHT" -> images (repeats counted) in the train split."""
    train_images: int
    held_out_images: int


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


def choose_held_out(images: Iterable[str], share: float) -> frozenset[str]:
    """The images held out of training: the given share of the distinct identities, the smallest first.

    Identities are hashes, so this is a random choice that depends on the content alone, not on upload order.
    """
    distinct = sorted(set(images))
    return frozenset(distinct[: int(len(distinct) * share + 0.5)])


def in_canonical_order(rows: Iterable[VersionRow]) -> list[VersionRow]:
    """Rows as a version's Parquet stores them: by image identity, then caption, concept, split."""
    return sorted(rows, key=lambda row: (row.image, row.caption, row.concept or "", row.split))


def summarise(rows: Iterable[VersionRow]) -> DatasetSummary:
    """Count a version's rows for planning."""
    rows = list(rows)
    sizes: dict[str, int] = {}
    for row in rows:
        if row.split is Split.TRAIN:
            size = f"{row.original_width}x{row.original_height}"
            sizes[size] = sizes.get(size, 0) + row.repeats
    return DatasetSummary(
        digest=version_digest(rows),
        train_sizes=dict(sorted(sizes.items())),
        train_images=sum(sizes.values()),
        held_out_images=sum(row.split is Split.HELD_OUT for row in rows),
    )
