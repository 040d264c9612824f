"""Which pictures are made together: pure arithmetic over what requests ask for.

Knows nothing about models. Which adapters act plays no part: each picture of a batch may
have its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from contracts.base import Denoising


class Shape(NamedTuple):
    """What all pictures of a batch must share."""

    width: int
    height: int
    steps: int
    guided: bool
    full_weights: str | None
    denoising: Denoising
    """Of the weights: what the UNet predicts, on which schedule."""


class Item(NamedTuple):
    """One picture of one request."""

    request: int
    picture: int


def group(shapes: Sequence[Shape], counts: Sequence[int], max_pictures: int) -> list[list[Item]]:
    """Every picture once, in batches of one shape; oldest request first, so none waits for ever.

    Args:
        shapes: of each request.
        counts: how many pictures each request wants.
        max_pictures: the largest batch.
    """
    by_shape: dict[Shape, list[Item]] = {}
    for request, (shape, count) in enumerate(zip(shapes, counts, strict=True)):
        by_shape.setdefault(shape, []).extend(Item(request, picture) for picture in range(count))
    return [
        items[start : start + max_pictures]
        for items in by_shape.values()
        for start in range(0, len(items), max_pictures)
    ]
