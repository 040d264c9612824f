"""Denoise from seeds: Euler on the base's own schedule, equal to StableDiffusionXLPipeline from the same seeds.

Knows nothing about adapters (the caller selects them on the UNet before) or about requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sdxl.base import Base
from sdxl.conditioning import Conditioning, join, time_ids
from sdxl.stock import EulerDiscreteScheduler

OnStep = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all); raising from it stops the sampling."""


@torch.no_grad()
def sample(
    base: Base,
    conditioning: Conditioning,
    *,
    negative: Conditioning | None,
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float | Sequence[float],
    width: int,
    height: int,
    sizes: torch.Tensor | None = None,
    on_step: OnStep | None = None,
) -> NDArray[np.float32]:
    """Make one picture for each prompt of ``conditioning``.

    A picture depends on its own seed and prompt alone, not on what else is in the batch (within rounding).

    Args:
        base: with UNet and VAE loaded.
        negative: what guidance steers away from, one for each picture; None turns guidance off.
        seeds: of each picture's first noise.
        guidance_scale: one for all, or one for each picture.
        sizes: time ids [N, 6]; None says the picture is whole and of the asked size.
        on_step: told of progress.

    Returns:
        Pictures [N, height, width, 3] between 0 and 1.
    """
    latents = denoise(
        base,
        conditioning,
        negative=negative,
        latents=initial_noise(base, seeds, width=width, height=height),
        steps=steps,
        guidance_scale=guidance_scale,
        sizes=time_ids((height, width), (0, 0), (height, width)).expand(len(seeds), -1) if sizes is None else sizes,
        on_step=on_step,
    )
    return decode(base, latents)


def initial_noise(base: Base, seeds: Sequence[int], *, width: int, height: int) -> torch.Tensor:
    """Unit noise [N, C, h, w], each picture's from its own CPU generator, so that devices agree."""
    shape = (1, base.latent_channels, height // base.vae_factor, width // base.vae_factor)
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=base.dtype) for seed in seeds]
    return torch.cat(drawn).to(base.device)


@torch.no_grad()
def denoise(
    base: Base,
    conditioning: Conditioning,
    *,
    negative: Conditioning | None,
    latents: torch.Tensor,
    steps: int,
    guidance_scale: float | Sequence[float],
    sizes: torch.Tensor,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Unit noise to clean latents. With guidance the UNet sees [unconditional..., conditional...]."""
    scheduler = EulerDiscreteScheduler.from_config(base.scheduler_config)
    scheduler.set_timesteps(steps, device=base.device)
    scheduler.set_begin_index(0)
    sizes = sizes.to(base.device)
    if negative is not None:
        conditioning = join([negative, conditioning])
        sizes = torch.cat([sizes, sizes])
    scale = _guidance(guidance_scale, latents)
    added = {"text_embeds": conditioning.pooled.to(base.dtype), "time_ids": sizes}
    text = conditioning.text.to(base.dtype)

    latents = latents * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        batch = latents if negative is None else torch.cat([latents, latents])
        batch = scheduler.scale_model_input(batch, timestep)
        predicted = base.unet(batch, timestep, text, added_cond_kwargs=added, return_dict=False)[0]
        if negative is not None:
            without, with_prompt = predicted.chunk(2)
            predicted = without + scale * (with_prompt - without)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(done, steps)
    return latents


@torch.no_grad()
def decode(base: Base, latents: torch.Tensor) -> NDArray[np.float32]:
    """Latents to pictures [N, H, W, 3] between 0 and 1; one at a time, as decoding is the peak of memory."""
    vae = base.vae
    latents = latents.to(vae.dtype)
    if vae.config.latents_mean is not None and vae.config.latents_std is not None:
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1).to(latents)
        spread = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1).to(latents)
        latents = latents * spread / vae.config.scaling_factor + mean
    else:
        latents = latents / vae.config.scaling_factor
    # The VAE computes in its own type, also when the UNet is called under autocast.
    with torch.autocast(latents.device.type, enabled=False):
        pictures = [vae.decode(latent[None], return_dict=False)[0] for latent in latents]
    unit = (torch.cat(pictures) * 0.5 + 0.5).clamp(0, 1)
    result: NDArray[np.float32] = unit.permute(0, 2, 3, 1).float().cpu().numpy()
    return result


def to_bytes(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures between 0 and 1 in 8 bits, rounded to nearest."""
    return (pictures * 255).round().astype(np.uint8)


def _guidance(scale: float | Sequence[float], latents: torch.Tensor) -> float | torch.Tensor:
    """One number where all pictures share it, which half precision does not round as it would a tensor."""
    if isinstance(scale, int | float):
        return scale
    if len(set(scale)) == 1:
        return scale[0]
    return torch.tensor(scale, device=latents.device, dtype=latents.dtype).view(-1, 1, 1, 1)
