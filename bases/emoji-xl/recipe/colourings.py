"""Colour words: each says colours, flatness and size, and is taught before every real style's own word.

`navy one style` is EmojiOne's drawing in navy's colours. Forty-eight such words and six drawings make 288 styles, too
many to be known by heart, so that drawing, colours and shading come apart: what a new style's adapter changes is then
a few directions, and what is drawn stays (docs/log.md, 2026-11-27).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from palettes import colour_matrix, drawn_colours, mixed, nearest, own_colours, random_palette
from pictures import SIDE_PX, Pictures
from PIL import Image

FLAT_IN_PALETTE = (
    "urban",
    "rustic",
    "gothic",
    "royal",
    "tribal",
    "forest",
    "nordic",
    "arctic",
    "tropic",
    "baroque",
    "modern",
    "classic",
    "vivid",
    "mellow",
    "frosty",
    "dusty",
    "sandy",
    "muddy",
    "marble",
    "granite",
)
IN_PALETTE = ("cedar", "walnut", "willow", "cotton", "leather", "silk", "wool", "bronze")
FLAT = ("platinum", "brass", "nickel", "carbon", "graphite", "crimson", "scarlet", "apricot", "emerald", "teal")
TONED = ("navy", "lilac", "lavender", "magenta", "burgundy", "maroon", "mocha", "hazel", "sienna", "vanilla")
WORDS = (*FLAT_IN_PALETTE, *IN_PALETTE, *FLAT, *TONED)
"""Flat: in a few colours of the picture's own. In a palette: each colour is one of the word's. Toned: shading stays."""
COLOURS_FROM_BELOW = (24, 64)
"""Of a palette."""
SIZES = (0.88, 1.07)
"""Of the drawing, in its own."""


@dataclass(frozen=True)
class Colouring:
    """How a picture is changed: resized, made flat, its tones mixed, every colour replaced by a palette's nearest."""

    word: str
    flat_colours: int | None
    matrix: np.ndarray
    gamma: float
    palette: Image.Image | None
    scale: float

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [64, 64, 3] -> the same shape; white stays so but where few colours mix it with another."""
        changed = _resized(picture, self.scale)
        if self.flat_colours is not None:
            changed = own_colours(changed, self.flat_colours)
        changed = mixed(changed, self.matrix, self.gamma)
        return changed if self.palette is None else nearest(changed, self.palette)


def colourings(pictures: Pictures, *, seed: int) -> list[Colouring]:
    """One for each of ``WORDS``; palettes are drawn from the colours that ``pictures`` have, moved at random."""
    random = np.random.default_rng(seed)
    drawn = drawn_colours(pictures.pixels[::7])
    return [_colouring(word, drawn, random) for word in WORDS]


def _colouring(word: str, drawn: np.ndarray, random: np.random.Generator) -> Colouring:
    flat, in_palette = word in (*FLAT_IN_PALETTE, *FLAT), word in (*FLAT_IN_PALETTE, *IN_PALETTE)
    hue_degrees = 12 if in_palette else 25 if flat else 40
    matrix = colour_matrix(random, hue_degrees, saturation=(0.7, 1.4))
    gamma = float(np.exp(random.uniform(-0.4, 0.4)))
    # Drawn for words without a palette too, as when the base was taught: what comes after depends on it.
    palette = random_palette(drawn, int(random.integers(*COLOURS_FROM_BELOW)), 20, random)
    flat_colours = int(random.integers(4, 9)) if flat else None
    size = float(random.uniform(*SIZES))
    return Colouring(word, flat_colours, matrix, gamma, palette if in_palette else None, size)


def _resized(picture: np.ndarray, scale: float) -> np.ndarray:
    """About the middle, on white."""
    side = round(SIDE_PX * scale)
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    offset = (SIDE_PX - side) // 2
    canvas = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    canvas.paste(image, (offset, offset))
    return np.asarray(canvas)
