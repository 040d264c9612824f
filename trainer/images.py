"""Picture files to RGB pixels: upright, sRGB, on white, exactly as uploads are decoded; then cut to a bucket.

Knows nothing about data sets or models. Decoding only to learn a picture's identity is remembered by the
file's hash, so a second run over the same files decodes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageOps

from contracts.buckets import Placement
from contracts.dataset import image_identity
from trainer.pixels import FORMATS, is_animated, mask_on_black, upright_on_white

log = logging.getLogger(__name__)

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on files it cannot read."""


class Identified(NamedTuple):
    """What a picture is, without its pixels."""

    image: str
    width: int
    height: int


def decode(data: bytes, *, mask: bool = False) -> Image.Image:
    """The picture as upright sRGB on white, a mask on black.

    Raises:
        OSError, SyntaxError, ValueError, EOFError, struct.error: see DAMAGED; it is not a picture or is broken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    if is_animated(image):
        raise ValueError("animated")
    return mask_on_black(image) if mask else upright_on_white(image)


def to_tensor(image: Image.Image, placement: Placement, *, flipped: bool) -> torch.Tensor:
    """Resize to cover the bucket, mirror, cut the window, and scale to [-1, 1] as [3, height, width]."""
    bucket = placement.bucket
    if image.size != (placement.resized_width, placement.resized_height):
        image = image.resize((placement.resized_width, placement.resized_height), Image.Resampling.LANCZOS)
    if flipped:
        image = ImageOps.mirror(image)
    left, top = placement.crop_left, placement.crop_top
    image = image.crop((left, top, left + bucket.width_px, top + bucket.height_px))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(bucket.height_px, bucket.width_px, 3).permute(2, 0, 1).float() / 127.5 - 1.0


class IdentityMemory:
    """Identities of files seen before, in one file of JSON lines that runs may append to at the same time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Identified] = {}
        if file.exists():
            for line in file.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["file"]] = Identified(entry["image"], entry["width"], entry["height"])
                except (ValueError, KeyError, TypeError):
                    continue  # the torn line of a run that was killed

    def identify(self, data: bytes, *, mask: bool = False) -> Identified:
        """The identity of a picture or mask; decodes it unless a file of these bytes was seen before.

        Raises:
            see ``decode``.
        """
        name = hashlib.sha256(data).hexdigest() + (":mask" if mask else "")
        if name not in self._known:
            image = decode(data, mask=mask)
            found = Identified(image_identity(image.width, image.height, image.tobytes()), image.width, image.height)
            self._known[name] = found
            self._append({"file": name, **found._asdict()})
        return self._known[name]

    def _append(self, entry: dict[str, str | int]) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                # One write of one line: lines of two runs do not mix. The leading break ends a torn line before it.
                os.write(handle, ("\n" + json.dumps(entry) + "\n").encode())
            finally:
                os.close(handle)
        except OSError as error:
            # The next run decodes the picture again; that this one has no room for more is found where it matters.
            log.warning("%s cannot be written: %s", self._file, error)
