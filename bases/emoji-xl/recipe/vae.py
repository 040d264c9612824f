"""The VAE of the demo base: SDXL's shape in small (factor 8, 4 latent channels), trained for faithful edges."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from loop import train
from pictures import Pictures, is_held_out
from torch.nn import functional as F

BATCH = 32
STEPS = 4000
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
EDGE_WEIGHT = 0.5
KL_WEIGHT = 1e-3


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def train_vae(pictures: Pictures, folder: Path, *, seed: int) -> AutoencoderKL:
    """Train on every picture that is not held out; return the VAE with its averaged weights.

    The loss is squared error plus squared error of the finite differences (the edge term), and a KL
    term light enough to leave the latents' noise near a standard deviation of 0.03.
    """
    torch.manual_seed(seed)
    vae = build_vae()
    seen = [row for row, emoji in enumerate(pictures.emoji) if not is_held_out(emoji.unified)]
    pixels = to_model(torch.from_numpy(pictures.pixels[seen]))

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(pixels), (BATCH,), generator=generator)
        batch = pixels[rows]
        if step % 2:
            batch = batch.flip(-1)
        mean, logvar = vae.quant_conv(vae.encoder(batch.bfloat16())).float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator)
        latents = mean + (0.5 * logvar).exp() * noise
        decoded = vae.decoder(vae.post_quant_conv(latents.bfloat16())).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return F.mse_loss(decoded, batch) + EDGE_WEIGHT * edge_error(decoded, batch) + KL_WEIGHT * kl

    train({"vae": vae}, loss_of, learning_rate, STEPS, folder, seed=seed)
    return vae


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)))


def edge_error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared error of horizontal and vertical finite differences of [N, 3, H, W] pictures."""
    difference = a - b
    return difference.diff(dim=-1).square().mean() + difference.diff(dim=-2).square().mean()


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


@torch.inference_mode()
def round_trip_psnr(vae: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Mean PSNR in dB over uint8 [N, H, W, 3] pictures, encoded and decoded without noise."""
    errors = []
    for batch in to_model(pixels).split(64):
        decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((decoded - batch) / 2).square().mean(dim=(1, 2, 3)))
    return float((-10 * torch.log10(torch.cat(errors))).mean())
