"""Which mask belongs to which image: pure matching over ledger rows. Knows nothing about SQL or pixels.

``a/cat_mask.png`` masks ``a/cat.*`` of the same size, inside one archive or among the files uploaded loose, of several
uploads the one it came with (arrivals.py); the newest mask of an image wins. An alpha channel masks its own image where
no such file does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from catalog.datasets.arrivals import came_with, meant, why_none
from catalog.datasets.captions import REPLACED, stem
from contracts.dataset import Fate


class Masked(NamedTuple):
    """A ledger row that shows an image; ``image`` is None when it could not be read."""

    file_id: int
    scope: int
    name: str
    image: str | None
    size: tuple[int, int]
    upload: int = 0


class MaskFile(NamedTuple):
    """A ledger row that shows a mask; ``target`` is its image's name without extension."""

    file_id: int
    scope: int
    name: str
    target: str
    size: tuple[int, int]
    alpha_of: str | None = None
    """The image whose alpha channel it is."""
    upload: int = 0


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
    beside = {mask.file_id: stems.get((mask.scope, mask.target), []) for mask in masks if mask.alpha_of is None}
    served = {row.file_id for mask in masks for row in came_with(beside.get(mask.file_id, ()), mask.upload)}
    names = {mask.file_id: mask.name for mask in masks}
    chosen: dict[str, int] = {}
    fates: dict[int, tuple[Fate, str | None]] = {}
    for mask in sorted(masks, key=lambda mask: mask.alpha_of is None):
        named = beside.get(mask.file_id, [])
        for_these = meant(named, mask.upload, served)
        fitting = [row.image for row in for_these or () if row.image is not None and row.size == mask.size]
        fitting = fitting if mask.alpha_of is None else [mask.alpha_of]
        if not fitting:
            fates[mask.file_id] = (Fate.REJECTED, _why_not(mask, named, for_these))
            continue
        fates[mask.file_id] = (Fate.USED, None)
        for image in fitting:
            earlier = chosen.get(image)
            if earlier is not None:
                fates[earlier] = (Fate.DUPLICATE, f"{REPLACED} {names[mask.file_id]}")
            chosen[image] = mask.file_id
    # One that was replaced for one of its images may serve another one still.
    fates |= dict.fromkeys(chosen.values(), (Fate.USED, None))
    return Masks(chosen, fates)


def _why_not(mask: MaskFile, named: Sequence[Masked], for_these: Sequence[Masked] | None) -> str:
    if not for_these:
        lost = f"a mask, but there is no usable image named {mask.target}; rename it if it is a picture of its own"
        return why_none(named, for_these, "mask") or lost
    width, height = for_these[0].size
    return f"a mask of {mask.size[0]}x{mask.size[1]} for {for_these[0].name}, which is {width}x{height}"
