"""The child that opens pictures nobody has vouched for: `python -m worker.decode_child`, spoken to over its stdin.

Knows nothing about datasets: bytes in, (identity, size, PNG) or words out. Its limits are worker/sandbox.py's.
"""

from __future__ import annotations

import io
import json
import math
import socket
import struct
import sys
import warnings
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from contracts.dataset import image_identity
from contracts.likeness import GRID_PX, difference_hash
from trainer.pixels import FORMATS, alpha_of, is_animated, mask_on_black, upright_on_white
from worker.sandbox import LENGTH, allow_cpu, limit_process

MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 16
MAX_SIDE_PX = 8192
MEMORY_BYTES = 2 * 1024**3
CPU_SECONDS_EACH = 30


class Refusal(Exception):
    """The picture is not accepted; the text says why and is shown to the user."""


class Picture(NamedTuple):
    """A picture as it is stored, and what was done to it."""

    image: Image.Image
    offered: tuple[int, int]
    alpha: Image.Image | None
    """How much of each pixel is not what lies behind it, of the same size; None where all of it is opaque."""


def main() -> None:
    """Answer requests until the other side hangs up."""
    limit_process(MEMORY_BYTES)
    with socket.socket(fileno=sys.stdin.fileno()) as channel, channel.makefile("rwb") as stream:
        while (request := _read(stream)) is not None:
            allow_cpu(CPU_SECONDS_EACH)
            data = _read(stream)
            if data is None:
                return
            answer, *pictures = _answer(data, **json.loads(request))
            for part in (json.dumps(answer).encode(), *pictures):
                stream.write(LENGTH.pack(len(part)))
                stream.write(part)
            stream.flush()


def decode(data: bytes, max_px: int | None = None, *, mask: bool = False) -> Picture:
    """The picture as upright sRGB on white, a mask on black, of at most ``max_px`` pixels.

    Raises:
        Refusal: it is not a picture we take.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise Refusal("not a PNG, JPEG, WebP or AVIF picture") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refusal(f"more than {MAX_PIXELS // 1_000_000} million pixels") from None
    _check_size(image)
    if is_animated(image):
        raise Refusal("animated; save one frame as a still picture")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        raise Refusal("the file is damaged or cut off") from None
    alpha = alpha_of(image)
    upright = mask_on_black(image) if mask else upright_on_white(image)
    stored = _downscaled(upright, max_px)
    if alpha is not None and alpha.size != stored.size:
        alpha = alpha.resize(stored.size, Image.Resampling.BOX)
    # Built from the pixels alone: no profile, position, comment or transparency of the file survives.
    return Picture(Image.frombytes("RGB", stored.size, stored.tobytes()), upright.size, alpha)


def _answer(data: bytes, max_px: int | None, mask: bool) -> tuple[Any, ...]:
    """What is said of a file, then the picture as PNG, then its alpha channel as PNG where it says anything."""
    try:
        image, offered, alpha = decode(data, max_px, mask=mask)
        png = _png(image)
        # Stored as masks that are uploaded are.
        seen = None if alpha is None else Image.merge("RGB", [alpha] * 3)
        masks = () if seen is None else (_png(seen),)
    except Refusal as refusal:
        return {"refused": str(refusal)}, b""
    except MemoryError:
        return {"refused": "decoding it takes too much memory"}, b""
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile files; the file is at fault
        return {"refused": "the file is damaged", "error": type(error).__name__}, b""
    answer = {
        "identity": _identity(image),
        "width": image.width,
        "height": image.height,
        "offered_width": offered[0],
        "offered_height": offered[1],
        "alpha": None if seen is None else _identity(seen),
        "likeness": _likeness(image),
    }
    return answer, png, *masks


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _identity(image: Image.Image) -> str:
    return image_identity(image.width, image.height, image.tobytes())


def _likeness(image: Image.Image) -> str:
    grey = image.convert("L").resize((GRID_PX, GRID_PX), Image.Resampling.BOX)
    return difference_hash(grey.tobytes())


def _read(stream: io.BufferedRWPair) -> bytes | None:
    header = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(header)[0]) if len(header) == LENGTH.size else None


def _downscaled(image: Image.Image, max_px: int | None) -> Image.Image:
    pixels = image.width * image.height
    if max_px is None or pixels <= max_px:
        return image
    scale = math.sqrt(max_px / pixels)
    width, height = (max(MIN_SIDE_PX, math.floor(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        limit = f"{MAX_PIXELS // 1_000_000} million pixels or {MAX_SIDE_PX} px a side"
        raise Refusal(f"{width}x{height} is more than {limit}")
    if min(width, height) < MIN_SIDE_PX:
        raise Refusal(f"{width}x{height} is smaller than {MIN_SIDE_PX} px a side")


if __name__ == "__main__":
    main()
