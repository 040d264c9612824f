"""Which mask belongs to which image: pure matching over ledger rows. Knows nothing about SQL or pixels.

``a/cat_mask.png`` masks ``a/cat.*`` of the same size, inside one archive or among the files uploaded loose; the newest
mask of an image wins. An alpha channel masks its own image where no such file does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from catalog.datasets.captions import stem
from contracts.dataset import Fate


class Masked(NamedTuple):
    """A ledger row that shows an image."""

    scope: int
    name: str
    image: str
    size: tuple[int, int]


class MaskFile(NamedTuple):
    """A ledger row that shows a mask; ``target`` is its image's name without extension."""

    file_id: int
    scope: int
    name: str
    target: str
    size: tuple[int, int]
    alpha_of: str | None = None
    """The image whose alpha channel it is."""


@dataclass(frozen=True)
class Masks:
    """The masks of the images, and what became of each mask row."""

    masks: Mapping[str, int]
    """Image -> mask row."""
    fates: Mapping[int, tuple[Fate, str | None]]


def match_masks(images: Sequence[Masked], masks: Sequence[MaskFile]) -> Masks:
    """Match masks to images; rows come oldest first."""
    stems: dict[tuple[int, str], list[Masked]] = {}
    for row in images:
        stems.setdefault((row.scope, stem(row.name)), []).append(row)
    names = {mask.file_id: mask.name for mask in masks}
    chosen: dict[str, int] = {}
    fates: dict[int, tuple[Fate, str | None]] = {}
    for mask in sorted(masks, key=lambda mask: mask.alpha_of is None):
        beside = stems.get((mask.scope, mask.target), [])
        fitting = [row.image for row in beside if row.size == mask.size] if mask.alpha_of is None else [mask.alpha_of]
        if not fitting:
            fates[mask.file_id] = (Fate.REJECTED, _why_not(mask, beside))
            continue
        fates[mask.file_id] = (Fate.USED, None)
        for image in fitting:
            earlier = chosen.get(image)
            if earlier is not None:
                fates[earlier] = (Fate.DUPLICATE, f"replaced by {names[mask.file_id]}")
            chosen[image] = mask.file_id
    # One that was replaced for one of its images may serve another one still.
    fates |= dict.fromkeys(chosen.values(), (Fate.USED, None))
    return Masks(chosen, fates)


def _why_not(mask: MaskFile, beside: Sequence[Masked]) -> str:
    if not beside:
        return f"a mask, but there is no usable image named {mask.target}; rename it if it is a picture of its own"
    width, height = beside[0].size
    return f"a mask of {mask.size[0]}x{mask.size[1]} for {beside[0].name}, which is {width}x{height}"
