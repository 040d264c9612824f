"""What a run will take, before it is paid for: pure arithmetic over a base's traced profile, no weights loaded.

Memory is a sum of parts for the training step; what it means for a particular GPU is not proven here.
"""

from __future__ import annotations

import math

from contracts.base import BaseDescription
from contracts.buckets import bucket_table, default_step_px, place
from contracts.config import Frozen
from contracts.dataset import DatasetSummary
from contracts.train import TrainConfig

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
ADAM_STATES = 2
LATENT_BYTES = 2 * 4
"""A cached latent keeps the VAE's mean and variance in fp32."""


class MemoryParts(Frozen):
    """Bytes on the training device at the peak of a step, by what they are for."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.gradients + self.optimizer + self.activations


class Plan(Frozen):
    """The answer of ``dry_run`` and ``trainer plan``."""

    images: int
    held_out_images: int
    kept_out_images: int = 0
    """Images of one version that another one holds out, and that are therefore not trained on."""
    steps: int
    epochs: float
    global_batch: int
    buckets: dict[str, int | float]
    """Bucket "WIDTHxHEIGHT" -> images an epoch sees, repeats and weights counted."""
    upscaled_images: int | float
    """Of these, those smaller than their bucket."""
    much_upscaled_images: int | float = 0
    """Of these, those enlarged more than data.max_upscaling."""
    trainable_parameters: int
    memory: MemoryParts
    memory_total: int
    disk_bytes: int
    """Checkpoints kept, weights and latent cache."""
    seconds_per_step: float | None
    """From measured runs of this base, device and shape; null when there is none: probe."""


def make_plan(
    config: TrainConfig,
    base: BaseDescription,
    dataset: DatasetSummary,
    *,
    processes: int = 1,
    seconds_per_step: float | None = None,
) -> Plan:
    """Predict what ``config`` takes on ``base`` with ``dataset``; under 10 ms."""
    resolution = config.data.resolution_px or base.native_px
    step_px = config.data.bucket_step_px or default_step_px(base.native_px)
    table = bucket_table(resolution, step_px, config.data.max_aspect)
    buckets: dict[str, int | float] = {}
    upscaled: int | float = 0
    too_much: int | float = 0
    for size, count in dataset.train_sizes.items():
        width, height = (int(side) for side in size.split("x"))
        placement = place(width, height, table)
        buckets[str(placement.bucket)] = buckets.get(str(placement.bucket), 0) + count
        upscaled += count if placement.upscaling > 1 else 0
        too_much += count if placement.upscaling > (config.data.max_upscaling or math.inf) else 0
    global_batch = config.batch_size * config.gradient_accumulation_steps * processes
    steps_per_epoch = sum(_steps(count, global_batch) for count in buckets.values())
    trainable = _trainable_parameters(config, base)
    memory = _memory(config, base, trainable, resolution)
    latent_elements = (resolution // base.vae_factor) ** 2 * base.latent_channels
    images = dataset.train_images + dataset.held_out_images
    checkpoint = trainable * 4 * (1 + ADAM_STATES)
    return Plan(
        images=dataset.train_images,
        held_out_images=dataset.held_out_images,
        kept_out_images=dataset.kept_out_images,
        steps=config.steps,
        epochs=round(config.steps / steps_per_epoch, 2) if steps_per_epoch else 0.0,
        global_batch=global_batch,
        buckets=dict(sorted(buckets.items())),
        upscaled_images=upscaled,
        much_upscaled_images=too_much,
        trainable_parameters=trainable,
        memory=memory,
        memory_total=memory.total,
        disk_bytes=checkpoint * config.checkpoint.keep + trainable * 4 + images * latent_elements * LATENT_BYTES,
        seconds_per_step=seconds_per_step,
    )


def _steps(count: float, global_batch: int) -> float:
    """Steps of one bucket in an epoch; a count between two whole numbers is the mean of epochs with either."""
    whole = math.floor(count)
    more = count - whole
    return (1 - more) * math.ceil(whole / global_batch) + more * math.ceil((whole + 1) / global_batch)


def _trainable_parameters(config: TrainConfig, base: BaseDescription) -> int:
    if config.method == "full":
        return base.profile.unet_parameters
    return base.profile.adapted_features[config.lora.targets] * config.lora.rank


def _memory(config: TrainConfig, base: BaseDescription, trainable: int, resolution_px: int) -> MemoryParts:
    if config.method == "lora":
        frozen = base.profile.unet_parameters * BYTES[config.precision]
    else:
        # The fp32 weights are what is trained; lower precision computes with copies of them.
        frozen = 0 if config.precision == "fp32" else base.profile.unet_parameters * BYTES[config.precision]
    traced = min(base.profile.activations, key=lambda a: abs(a.width_px * a.height_px - resolution_px**2))
    kept = traced.bytes_checkpointed if config.gradient_checkpointing else traced.bytes_plain
    # Traced in fp32; half-precision activations take half of it.
    share = resolution_px**2 / (traced.width_px * traced.height_px) * BYTES[config.precision] / BYTES["fp32"]
    return MemoryParts(
        weights=frozen,
        adapters=trainable * 4,
        gradients=trainable * 4,
        optimizer=trainable * 4 * ADAM_STATES,
        activations=int(kept * share * config.batch_size),
    )
