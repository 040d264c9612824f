"""From samples of a step to the tensors the UNet is trained on: latents, noise, timesteps, captions, sizes.

Knows nothing about losses or optimisers. All of it is a function of (seed, step, sample), whatever the slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from contracts.buckets import Bucket, Placement, Schedule, bucket_table, default_step_px, place
from contracts.dataset import VersionRow
from contracts.mixing import Samples
from contracts.train import DataSettings
from sdxl.conditioning import Conditioning, join, time_ids
from trainer.captions import Captions
from trainer.draws import Draw, channel_shift, crop_offsets, draw, keyed_seed
from trainer.latents import Latents, Texts, View
from trainer.loss import mask_weight
from trainer.masks import Masks
from trainer.texts import TrainedTexts


@dataclass(frozen=True)
class Inputs:
    """One slice of a batch, on the device."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Conditioning
    time_ids: torch.Tensor
    weights: torch.Tensor | None = None
    """Of the loss at each latent, [N, 1, h, w]; None counts all alike."""


@dataclass(frozen=True)
class Feed:
    """Everything samples are made from."""

    samples: Sequence[VersionRow]
    views: Views
    latents: Latents
    texts: Texts | TrainedTexts
    captions: Captions
    class_captions: Captions
    """Of class pictures: no trigger word, no variation."""
    class_from: int
    """Samples from this one on are class pictures."""
    masks: Masks | None
    unmasked_weight: float
    seed: int
    flip: bool
    random_crop: bool
    timesteps: range
    """Those that are trained on."""
    schedule_steps: int
    """How many timesteps the noise schedule has."""
    noise_offset: float | None
    scaling_factor: float
    latent_channels: int
    vae_factor: int
    device: torch.device

    def __call__(self, step: int, indices: Sequence[int]) -> Inputs:
        """The inputs of these samples in this step; they are all of one bucket."""
        parts = [self._sample(step, index) for index in indices]
        drawn = [part[0] for part in parts]
        return Inputs(
            latents=torch.stack([part[1] for part in parts]).to(self.device),
            noise=torch.stack([self._noise(step, *pair) for pair in zip(indices, drawn, strict=True)]).to(self.device),
            timesteps=torch.tensor([one.timestep for one in drawn], device=self.device),
            conditioning=self._conditioning(step, indices).to(device=self.device),
            time_ids=torch.stack([part[2] for part in parts]).to(self.device),
            weights=self._weights(step, indices, drawn),
        )

    def caption_of(self, step: int, index: int) -> str | None:
        """The text this sample is trained with in this step; None without a caption."""
        words = self.captions if index < self.class_from else self.class_captions
        return words(self.samples[index].caption, step, index)

    def _sample(self, step: int, index: int) -> tuple[Draw, torch.Tensor, torch.Tensor]:
        row = self.samples[index]
        bucket = self.views.of(row).placement.bucket
        shape = (self.latent_channels, bucket.height_px // self.vae_factor, bucket.width_px // self.vae_factor)
        drawn = draw(self.seed, step, index, timesteps=self.timesteps, shape=shape)
        view = self._view(step, index, drawn)
        mean, variance = self.latents(view)
        latent = (mean + variance.sqrt() * drawn.posterior) * self.scaling_factor
        return drawn, latent, sizes_of(row, view)

    def _conditioning(self, step: int, indices: Sequence[int]) -> Conditioning:
        captions = [self.caption_of(step, index) for index in indices]
        if isinstance(self.texts, TrainedTexts):
            return self.texts.in_step(captions, [keyed_seed("dropout", self.seed, step, index) for index in indices])
        return join([self.texts(caption) for caption in captions])

    def _view(self, step: int, index: int, drawn: Draw) -> View:
        offsets = crop_offsets(self.seed, step, index) if self.random_crop else None
        return self.views.of(self.samples[index], flipped=self.flip and drawn.flipped, offsets=offsets)

    def _weights(self, step: int, indices: Sequence[int], drawn: Sequence[Draw]) -> torch.Tensor | None:
        # A slice is all of the subject or all of the class, whose pictures count as a whole.
        if self.masks is None or indices[0] >= self.class_from:
            return None
        found = [
            self.masks(self.samples[index], self._view(step, index, choice))
            for index, choice in zip(indices, drawn, strict=True)
        ]
        return mask_weight(torch.stack(found), self.unmasked_weight).to(self.device)

    def _noise(self, step: int, index: int, drawn: Draw) -> torch.Tensor:
        if self.noise_offset is None:
            return drawn.noise
        return drawn.noise + self.noise_offset * channel_shift(self.seed, step, index, channels=self.latent_channels)


@dataclass(frozen=True)
class Views:
    """How pictures are cut: the bucket table of the run."""

    table: tuple[Bucket, ...]

    def of(self, row: VersionRow, *, flipped: bool = False, offsets: tuple[float, float] | None = None) -> View:
        """How a row's picture is cut: the middle, or a window at shares of what there is to cut off."""
        placement = place(row.original_width, row.original_height, self.table)
        if offsets is not None:
            left, top = offsets
            bucket = placement.bucket
            placement = placement._replace(
                crop_left=int(left * (placement.resized_width - bucket.width_px + 1)),
                crop_top=int(top * (placement.resized_height - bucket.height_px + 1)),
            )
        if flipped:
            # The window's left edge in the mirrored picture.
            left = placement.resized_width - placement.bucket.width_px - placement.crop_left
            return View(row.image, row.source_name, placement._replace(crop_left=left), True)
        return View(row.image, row.source_name, placement, False)


def make_views(data: DataSettings, native_px: int) -> Views:
    """The views of a run on a base of this native size."""
    resolution = data.resolution_px or native_px
    return Views(bucket_table(resolution, data.bucket_step_px or default_step_px(native_px), data.max_aspect))


def make_schedule(samples: Samples, views: Views, pictures: int, seed: int) -> Schedule:
    """Which samples each step of so many pictures takes."""
    return Schedule(
        buckets=tuple(views.of(row).placement.bucket for row in samples.rows),
        global_batch=pictures,
        seed=seed,
        sometimes=samples.sometimes,
    )


def sizes_of(row: VersionRow, view: View) -> torch.Tensor:
    """SDXL's size conditioning of a view."""
    cut: Placement = view.placement
    return time_ids(
        (row.original_height, row.original_width),
        (cut.crop_top, cut.crop_left),
        (cut.bucket.height_px, cut.bucket.width_px),
    )
