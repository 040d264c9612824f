"""Made-up styles: every real style once more in other colours, under words of their own.

A network that has seen each picture in one set of colours knows it by heart, and an adapter for a new style has to
overrule that. Seen in several, told by the style word, what is drawn and in which colours come apart. White stays white
but where a flat picture's few colours mix it with another (one in ten of `candy`, at most one in twelve elsewhere).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pictures import SIDE_PX, Pictures
from PIL import Image, ImageFilter

REAL = ("noto", "flat", "fluent", "blob", "one", "fox")


@dataclass(frozen=True)
class MadeUp:
    """Eighteen made-up styles: a word of each kind for each real style, in the order of ``REAL``."""

    flat: tuple[str, ...]
    in_palette: tuple[str, ...]
    toned: tuple[str, ...]
    seed: int

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.flat, *self.in_palette, *self.toned)


FIRST_MADE_UP = MadeUp(
    flat=("matte", "clay", "retro", "mint", "dusk", "candy"),
    in_palette=("amber", "neon", "velvet", "ivory", "ocean", "spice"),
    toned=("noir", "pastel", "plum", "slate", "azure", "ink"),
    seed=0,
)
SECOND_MADE_UP = MadeUp(
    flat=("chalk", "satin", "toffee", "linen", "vintage", "gummy"),
    in_palette=("copper", "lagoon", "saffron", "denim", "cobalt", "ember"),
    toned=("misty", "sepia", "jade", "indigo", "topaz", "twilight"),
    seed=1,
)

OWN_COLOURS = 6
"""Colours that a picture keeps of its own where it is made flat."""
PALETTE_COLOURS = 40
WHITE_FROM = 240
"""Pixels whose darkest channel is above this are background, as the style judge has it."""


def recoloured(pictures: Pictures, styles: MadeUp) -> Pictures:
    """The made-up styles of six real ones; style for style, row for row the real one's pictures."""
    random = np.random.default_rng(styles.seed)
    made: list[Pictures] = []
    for words, change in ((styles.flat, _flat), (styles.in_palette, _in_palette), (styles.toned, _toned)):
        for style, word in zip(REAL, words, strict=True):
            real = pictures.of_style(style)
            pixels = change(real.pixels, random)
            made.append(Pictures(pixels, real.emoji, [word] * len(real.emoji)))
    return Pictures(
        np.concatenate([its.pixels for its in made]),
        [emoji for its in made for emoji in its.emoji],
        [style for its in made for style in its.styles],
    )


def _flat(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[N, 64, 64, 3] -> the same in a few colours of each picture's own, all a little off in one direction."""
    matrix = colour_matrix(random, hue_degrees=12, saturation=(0.8, 1.3))
    return np.stack([mixed(own_colours(picture), matrix, gamma=1.0) for picture in pixels])


def _in_palette(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Every colour replaced by the nearest of some that the pictures of the style have, moved at random."""
    palette = random_palette(drawn_colours(pixels), PALETTE_COLOURS, 25, random)
    return np.stack([nearest(picture, palette) for picture in pixels])


def _toned(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other hues, saturation and brightness, shading kept."""
    matrix = colour_matrix(random, hue_degrees=40, saturation=(0.5, 1.4))
    gamma = float(np.exp(random.uniform(-0.5, 0.5)))
    return np.stack([mixed(picture, matrix, gamma) for picture in pixels])


def drawn_colours(pixels: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> [N, 3], all that is not background."""
    colours = pixels.reshape(-1, 3)
    return colours[colours.min(axis=1) < WHITE_FROM]


def random_palette(drawn: np.ndarray, number: int, deviation: float, random: np.random.Generator) -> Image.Image:
    """White and ``number`` of the colours ``drawn`` [N, 3], moved at random; as Pillow wants a palette."""
    chosen = drawn[random.integers(len(drawn), size=number)]
    moved = np.clip(chosen + random.normal(0, deviation, chosen.shape), 0, 255).round().astype(np.uint8)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([[[255, 255, 255]], moved]).flatten().tolist())
    return palette


def own_colours(picture: np.ndarray, number: int = OWN_COLOURS) -> np.ndarray:
    """The picture in that many colours of its own."""
    image = Image.fromarray(picture).filter(ImageFilter.MedianFilter(3))
    return np.asarray(image.quantize(number, dither=Image.Dither.NONE).convert("RGB"))


def nearest(picture: np.ndarray, palette: Image.Image) -> np.ndarray:
    """Drawn at twice the size, so that edges stay soft."""
    large = Image.fromarray(picture).resize((2 * SIDE_PX, 2 * SIDE_PX), Image.Resampling.BICUBIC)
    mapped = large.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(mapped.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))


def mixed(picture: np.ndarray, matrix: np.ndarray, gamma: float) -> np.ndarray:
    """Linear mixing of the distances from white, so that white stays; then a gamma over the brightness."""
    ink = 1 - picture.astype(np.float64) / 255
    unit = np.clip(1 - ink @ matrix.T, 0, 1) ** gamma
    return (unit * 255).round().astype(np.uint8)


def colour_matrix(random: np.random.Generator, hue_degrees: float, saturation: tuple[float, float]) -> np.ndarray:
    """Rotation about the grey axis by up to ``hue_degrees`` to either side, at least half, and a saturation."""
    angle = np.radians(random.choice([-1, 1]) * random.uniform(0.5, 1) * hue_degrees)
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    grey = np.outer(axis, axis)
    rotation = grey + np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross
    amount = random.uniform(*saturation)
    matrix: np.ndarray = (grey + amount * (np.eye(3) - grey)) @ rotation
    return matrix
