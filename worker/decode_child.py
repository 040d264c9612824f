"""The child that opens pictures nobody has vouched for: `python -m worker.decode_child`, spoken to over its stdin.

It limits its own memory, processor time and files before it reads the first byte. Knows nothing about datasets:
bytes in, (identity, size, PNG) or words out.
"""

from __future__ import annotations

import io
import json
import resource
import socket
import struct
import sys
import warnings
from typing import Any

from PIL import Image, UnidentifiedImageError

from contracts.dataset import image_identity
from trainer.pixels import FORMATS, upright_on_white
from worker.decode import LENGTH

MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 16
MAX_SIDE_PX = 8192
MEMORY_BYTES = 2 * 1024**3
CPU_SECONDS_EACH = 30


class Refusal(Exception):
    """The picture is not accepted; the text says why and is shown to the user."""


def main() -> None:
    """Answer requests until the other side hangs up."""
    _limit_process()
    with socket.socket(fileno=sys.stdin.fileno()) as channel, channel.makefile("rwb") as stream:
        while True:
            header = stream.read(LENGTH.size)
            if len(header) < LENGTH.size:
                return
            (length,) = LENGTH.unpack(header)
            _allow_cpu(CPU_SECONDS_EACH)
            answer, png = _answer(stream.read(length))
            for part in (json.dumps(answer).encode(), png):
                stream.write(LENGTH.pack(len(part)))
                stream.write(part)
            stream.flush()


def decode(data: bytes) -> tuple[Image.Image, str]:
    """The picture as upright sRGB on white, and its identity.

    Raises:
        Refusal: it is not a picture we take.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise Refusal("not a PNG, JPEG or WebP picture") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refusal(f"more than {MAX_PIXELS // 1_000_000} million pixels") from None
    _check_size(image)
    if getattr(image, "n_frames", 1) > 1:
        raise Refusal("animated; save one frame as a still picture")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        raise Refusal("the file is damaged or cut off") from None
    upright = upright_on_white(image)
    pixels = upright.tobytes()
    # Built from the pixels alone: no profile, position, comment or transparency of the file survives.
    return Image.frombytes("RGB", upright.size, pixels), image_identity(upright.width, upright.height, pixels)


def _answer(data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        image, identity = decode(data)
        png = io.BytesIO()
        image.save(png, "PNG", compress_level=1)
    except Refusal as refusal:
        return {"refused": str(refusal)}, b""
    except MemoryError:
        return {"refused": "decoding it takes too much memory"}, b""
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile files; the file is at fault
        return {"refused": "the file is damaged", "error": type(error).__name__}, b""
    return {"identity": identity, "width": image.width, "height": image.height}, png.getvalue()


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        limit = f"{MAX_PIXELS // 1_000_000} million pixels or {MAX_SIDE_PX} px a side"
        raise Refusal(f"{width}x{height} is more than {limit}")
    if min(width, height) < MIN_SIDE_PX:
        raise Refusal(f"{width}x{height} is smaller than {MIN_SIDE_PX} px a side")


def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _allow_cpu(seconds: int) -> None:
    """Processor time from now on; the kernel ends the process when it is used up."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
