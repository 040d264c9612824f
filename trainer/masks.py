"""What of each picture the loss looks at: its mask, else its alpha channel, cut as the picture is cut.

A mask is resized, mirrored and cropped with its picture, then averaged over the pixels each latent stands for.
Knows nothing about how the loss is weighed by it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from PIL import Image, ImageOps
from torch.nn.functional import avg_pool2d

from contracts.buckets import Placement
from contracts.dataset import VersionRow
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.objective import MaskedSettings
from trainer.images import decode
from trainer.latents import View
from trainer.mixed import RunData
from trainer.pixels import FORMATS, alpha_of

REMEMBERED = 4096
"""Masks kept in memory, in 8 bits at the size of latents: at most 64 MiB at 1024 px."""

Masks = Callable[[VersionRow, View], torch.Tensor]
"""The mask of a row's view, [1, height, width] of its latent, between 0 and 1."""


def read_masks(
    data: RunData,
    views: Callable[..., View],
    vae_factor: int,
    settings: MaskedSettings,
    flip: bool,
    on_done: Callable[[int, int], object],
) -> tuple[Masks, int]:
    """The masks of everything that is trained on, each seen once, and how many pictures have none.

    Args:
        views: gives a row's view, plain or ``flipped``.

    Raises:
        InvalidInput, PatinaError: as ``check_masks``.
    """
    masks = make_masks(data.read, data.read_mask, vae_factor)
    rows = {(pick.row.image, pick.row.mask): pick.row for pick in data.mixture.train}.values()
    ways = (False, True) if flip else (False,)
    used = [(row, [views(row, flipped=flipped) for flipped in ways]) for row in rows]
    return masks, check_masks(used, masks, settings.unmasked_weight, on_done)


def make_masks(read: Callable[[str], bytes], read_mask: Callable[[str], bytes], vae_factor: int) -> Masks:
    """Masks from the files of pictures and masks, by identity; a picture with neither counts as a whole."""

    @lru_cache(maxsize=REMEMBERED)
    def cut(image: str, mask: str | None, placement: Placement, flipped: bool) -> torch.Tensor:
        if mask is None:
            found = alpha_of(Image.open(io.BytesIO(read(image)), formats=FORMATS))
        else:
            found = decode(read_mask(mask), mask=True).convert("L")
        if found is None:
            width, height = placement.bucket
            return torch.full((1, height // vae_factor, width // vae_factor), 255, dtype=torch.uint8)
        return to_latent_size(found, placement, vae_factor, flipped=flipped).mul(255).ceil().to(torch.uint8)

    return lambda row, view: cut(row.image, row.mask, view.placement, view.flipped).float() / 255


def to_latent_size(mask: Image.Image, placement: Placement, vae_factor: int, *, flipped: bool) -> torch.Tensor:
    """[1, h, w] between 0 and 1: the mask cut as ``trainer.images.to_tensor`` cuts the picture, averaged by area."""
    size = (placement.resized_width, placement.resized_height)
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BOX)
    if flipped:
        mask = ImageOps.mirror(mask)
    left, top, bucket = placement.crop_left, placement.crop_top, placement.bucket
    mask = mask.crop((left, top, left + bucket.width_px, top + bucket.height_px))
    pixels = torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8)
    return avg_pool2d(pixels.view(1, bucket.height_px, bucket.width_px).float() / 255, vae_factor)


def check_masks(
    samples: Sequence[tuple[VersionRow, Sequence[View]]],
    masks: Masks,
    unmasked_weight: float,
    on_done: Callable[[int, int], object],
) -> int:
    """See every mask that will be used; returns how many rows have none.

    Raises:
        InvalidInput: there is no mask at all.
        PatinaError: DATASET_UNREADABLE: a mask leaves nothing of its picture to learn.
    """
    without = 0
    empty = []
    for done, (row, views) in enumerate(samples, start=1):
        cut = [masks(row, view) for view in views]
        if unmasked_weight == 0 and not all(mask.any() for mask in cut):
            empty.append(row.source_name)
        without += row.mask is None and all((mask == 1).all() for mask in cut)
        on_done(done, len(samples))
    if without == len(samples):
        message = "is set, but no picture has a mask beside it or an alpha channel"
        raise InvalidInput(
            [FieldError(pointer="/loss/masked", message=message)],
            "The recipe does not fit the data.",
            "Put NAME_mask.png beside NAME.png, white where it is to be learned, or set loss.masked to null.",
        )
    if empty:
        raise PatinaError(
            FailureCode.DATASET_UNREADABLE,
            f"Masks that leave nothing of the picture, once it is cropped: {', '.join(empty[:10])}"
            f"{f' and {len(empty) - 10} more' if len(empty) > 10 else ''}.",
            "White is what is learned: are they inverted? Or set loss.masked.unmasked_weight above 0.",
        )
    return without
