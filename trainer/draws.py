"""Every random choice of training, keyed by (seed, step, sample index) and never taken from global state.

So a batch may be cut into micro-batches or ranks in any way, a resume needs no generator's state, and a preview
cannot disturb the run. Knows nothing about models.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch


class Choices(NamedTuple):
    """What is chosen for one sample of one step besides noise."""

    timestep: int
    flipped: bool
    """A number below 0.5 was drawn; the caller decides whether flipping is on."""
    caption_number: float
    """Uniform in [0, 1): the caption is dropped when it is below the share to drop."""


class Draw(NamedTuple):
    """The choices for one sample of one step, and its noise."""

    timestep: int
    flipped: bool
    caption_number: float
    posterior: torch.Tensor
    """Standard normal, to draw a latent from the VAE's mean and variance."""
    noise: torch.Tensor
    """Standard normal: what the UNet learns to see."""


def draw(seed: int, step: int, sample: int, *, timesteps: range, shape: tuple[int, ...]) -> Draw:
    """Choose for one sample; everything is drawn whether it is used or not, so a setting shifts no other choice."""
    generator = keyed_generator("sample", seed, step, sample)
    choices = _choices(generator, timesteps)
    posterior, noise = torch.randn((2, *shape), generator=generator)
    return Draw(*choices, posterior, noise)


def choose(seed: int, step: int, sample: int, *, timesteps: range) -> Choices:
    """What ``draw`` chooses, without the noise."""
    return _choices(keyed_generator("sample", seed, step, sample), timesteps)


def channel_shift(seed: int, step: int, sample: int, *, channels: int) -> torch.Tensor:
    """Standard normal [channels, 1, 1]: what a noise offset adds to a sample's noise, from a key of its own."""
    return torch.randn((channels, 1, 1), generator=keyed_generator("noise-offset", seed, step, sample))


def crop_offsets(seed: int, step: int, sample: int) -> tuple[float, float]:
    """Where a random window lies, from the left and from the top: uniform in [0, 1) of what there is to cut off."""
    generator = keyed_generator("crop", seed, step, sample)
    left, top = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return left, top


def keyed_generator(*key: str | int) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def keyed_seed(*key: str | int) -> int:
    """63 bits from a hash of the key: neighbouring steps and samples share nothing."""
    text = "/".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _choices(generator: torch.Generator, timesteps: range) -> Choices:
    timestep = int(torch.randint(timesteps.start, timesteps.stop, (), generator=generator))
    flip, caption = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return Choices(timestep, flip < 0.5, caption)
