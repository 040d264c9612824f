"""Pictures to pixels: upright whatever else their EXIF says, and the very pixels that name them."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image, ImageOps

from trainer.pixels import TURNS, alpha_of, upright_on_white

ORIENTATION = 0x0112
RESOLUTION_IN_WORDS = (0x011A, 2, 3, b"72\0\0")
SHAPE = Image.effect_noise((24, 16), 80)
COLOURED = Image.merge("RGB", [SHAPE, SHAPE.rotate(180), Image.linear_gradient("L").resize(SHAPE.size)])
PICTURES = {
    "JPEG": COLOURED,
    "JPEG of grey": SHAPE,
    "JPEG of inks": COLOURED.convert("CMYK"),
    "PNG": COLOURED,
    "PNG of a palette": COLOURED.convert("P"),
    "PNG of sixteen bits": SHAPE.convert("I").point(lambda value: value * 257).convert("I;16"),
    "PNG with alpha": Image.merge("RGBA", [*COLOURED.split(), SHAPE]),
    "WEBP": COLOURED,
}


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of these tags, types, counts and values, right or wrong."""
    tags = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + tags + struct.pack(">I", 0)


def turned(orientation: int) -> tuple[int, int, int, bytes]:
    return (ORIENTATION, 3, 1, struct.pack(">HH", orientation, 0))


def opened(name: str, said: bytes, **options: object) -> Image.Image:
    file = io.BytesIO()
    PICTURES[name].save(file, name.partition(" ")[0], exif=said, **options)
    return Image.open(io.BytesIO(file.getvalue()))


class TestUprightOnWhite:
    @pytest.mark.parametrize("orientation", range(10))
    @pytest.mark.parametrize("name", PICTURES)
    def test_gives_the_pixels_pillow_turns(self, name: str, orientation: int) -> None:
        said = exif(turned(orientation))
        by_pillow = ImageOps.exif_transpose(opened(name, said))
        picture = upright_on_white(opened(name, said))
        assert picture.size == (SHAPE.size if orientation not in (5, 6, 7, 8) else SHAPE.size[::-1])
        assert picture.tobytes() == upright_on_white(by_pillow).tobytes()

    @pytest.mark.parametrize("orientation", TURNS)
    def test_a_tag_of_the_wrong_type_is_nothing_to_the_pixels(self, orientation: int) -> None:
        picture = upright_on_white(opened("JPEG", exif(turned(orientation), RESOLUTION_IN_WORDS)))
        assert picture.tobytes() == upright_on_white(opened("JPEG", exif(turned(orientation)))).tobytes()


class TestAlphaOf:
    @pytest.mark.parametrize("others", [(), (RESOLUTION_IN_WORDS,)])
    def test_is_turned_with_its_picture(self, others: tuple[tuple[int, int, int, bytes], ...]) -> None:
        alpha = alpha_of(opened("PNG with alpha", exif(turned(6), *others)))
        assert alpha is not None
        assert alpha.tobytes() == SHAPE.transpose(TURNS[6]).tobytes()
