"""Pictures from the model in training, to watch it learn.

Draws from its own seeds, computes without gradients on the live weights as they are, and changes nothing: a run
with previews ends in the same weights as one without. Knows nothing about when previews are made.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from contracts.train import PreviewSettings
from sdxl.base import load_base
from sdxl.conditioning import join
from sdxl.sampling import sample, to_bytes
from trainer.control import StopRequested
from trainer.files import write_atomically
from trainer.latents import Texts
from trainer.weights import Trainable


class Made(NamedTuple):
    """One preview on disk."""

    file: Path
    prompt: str
    seed: int


def make_previews(
    model: Trainable,
    scheduler_config: Mapping[str, Any],
    texts: Texts,
    settings: PreviewSettings,
    prompts: Sequence[str],
    *,
    step: int,
    side_px: int,
    at_once: int,
    folder: Path,
    stop_wanted: Callable[[], bool],
) -> Iterator[Made]:
    """Write one picture a prompt (already with the trigger word) on the noise schedule that is trained on.

    The VAE is in memory only meanwhile.

    Raises:
        StopRequested: asked to stop meanwhile; what is written stays.
    """

    def on_step(done: int, total: int) -> None:
        if stop_wanted():
            raise StopRequested

    device = model.base.device
    vae = load_base(model.base.path, dtype=torch.float32, device=device, components={"vae"}).vae
    base = replace(model.base, vae=vae, scheduler_config=dict(scheduler_config))
    guided = settings.guidance_scale > 1
    for start in range(0, len(prompts), at_once):
        chunk = prompts[start : start + at_once]
        seeds = [settings.seed + start + offset for offset in range(len(chunk))]
        with model.compute():
            pictures = sample(
                base,
                join([texts(prompt) for prompt in chunk]).to(device=device),
                negative=join([texts(None)] * len(chunk)).to(device=device) if guided else None,
                seeds=seeds,
                steps=settings.sampling_steps,
                guidance_scale=settings.guidance_scale,
                width=side_px,
                height=side_px,
                on_step=on_step,
            )
        for offset, picture in enumerate(to_bytes(pictures)):
            file = preview_file(folder, step, start + offset)
            png = io.BytesIO()
            Image.fromarray(picture).save(png, "PNG")
            write_atomically(file, png.getvalue())
            yield Made(file, chunk[offset], seeds[offset])


def preview_file(folder: Path, step: int, number: int) -> Path:
    """Where the picture of prompt ``number`` (from 0) after ``step`` is."""
    return folder / f"step-{step:08d}-{number:02d}.png"
