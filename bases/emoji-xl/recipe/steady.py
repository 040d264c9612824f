"""The VAE's second stage: latents that forgive the error every UNet makes.

A VAE that spends each of its 256 numbers on detail needs each of them exactly, and a small UNet is off by 0.1 to 0.4 of
their deviation (docs/log.md, 2026-11-27). So noise of that size and more is put into the latents while encoder and
decoder go on: what matters most, colours before detail, then takes most of their range.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from loop import train
from pictures import Pictures, is_held_out
from ranks import ranks
from torch.nn import functional as F
from vae import edge_error, to_model

BATCH = 32
"""Over all ranks."""
STEPS = 3000
PEAK_LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 50
NOISE = 0.7
"""The most noise, in the latents' own deviation; each picture has its own share of it."""
EDGE_WEIGHT = 0.5
COLOUR_WEIGHT = 2.0
"""Of the squared error of 4 x 4 px means: a colour that is off is seen before an edge that is."""
PRIOR_WEIGHT = 1e-3
POSTERIOR_LOGVAR = -7.0
"""The encoder's own noise stays at a deviation of 0.03, as the first stage left it."""
OTHER_COLOURS_SHARE = 0.25
"""Of the pictures, with their channels in another order: more palettes than the styles have."""


def steady_vae(base: Path, pictures: Pictures, folder: Path, *, seed: int) -> AutoencoderKL:
    """Go on from the VAE in ``base`` on every picture that is not held out; return it with its averaged weights."""
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)
    seen = [row for row, emoji in enumerate(pictures.emoji) if not is_held_out(emoji.unified)]
    pixels = to_model(torch.from_numpy(pictures.pixels[seen]))

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        batch = _draw(pixels, BATCH // ranks(), generator)
        mean, logvar = vae.quant_conv(vae.encoder(batch.bfloat16())).float().chunk(2, dim=1)
        deviation = mean.std()
        share = NOISE * torch.rand(len(batch), 1, 1, 1, generator=generator)
        noisy = mean + share * deviation * torch.randn(mean.shape, generator=generator)
        decoded = vae.decoder(vae.post_quant_conv(noisy.bfloat16())).float()
        prior = deviation.log().square() + mean.mean().square() + (logvar - POSTERIOR_LOGVAR).square().mean()
        colour = F.mse_loss(F.avg_pool2d(decoded, 4), F.avg_pool2d(batch, 4))
        seen_errors = F.mse_loss(decoded, batch) + EDGE_WEIGHT * edge_error(decoded, batch) + COLOUR_WEIGHT * colour
        return seen_errors + PRIOR_WEIGHT * prior

    train({"vae": vae}, loss_of, learning_rate, STEPS, folder, seed=seed, ema_decay=0.995)
    return vae


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = (step + 1) / WARMUP_STEPS
    return PEAK_LEARNING_RATE * min(warm, 0.5 * (1 + math.cos(math.pi * step / STEPS)))


def _draw(pixels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    batch = pixels[torch.randint(len(pixels), (count,), generator=generator)]
    if torch.rand((), generator=generator) < 0.5:
        batch = batch.flip(-1)
    other = round(OTHER_COLOURS_SHARE * count)
    order = torch.randperm(3, generator=generator)
    return torch.cat([batch[:other, order], batch[other:]])
