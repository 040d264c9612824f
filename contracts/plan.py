"""What a run will take, before it is paid for: pure arithmetic over a base's traced profile, no weights loaded.

Memory is a sum of parts for the training step; what it means for a particular GPU is not proven here.
"""

from __future__ import annotations

import math

from contracts.base import BaseDescription
from contracts.buckets import bucket_table, default_step_px, place
from contracts.config import Frozen
from contracts.dataset import DatasetSummary
from contracts.fitting import Fitting, fit, fits
from contracts.footprint import FULL_PRECISION
from contracts.memory import (
    MemoryParts,
    average_bytes,
    live_latents,
    memory_parts,
    optimizer_bytes,
    trainable_parameters,
    weight_bytes,
)
from contracts.precision import BYTES
from contracts.train import TrainConfig

LATENT_BYTES = 2 * 4
"""A cached latent keeps the VAE's mean and variance in fp32."""


class Plan(Frozen):
    """The answer of ``dry_run`` and ``trainer plan``."""

    images: int
    held_out_images: int
    kept_out_images: int = 0
    """Images of one version that another one holds out, and that are therefore not trained on."""
    class_images: int = 0
    """Class pictures beside the others, those that are to be made included."""
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
    """Checkpoints at their most, weights, exports, and what is cached of images and captions."""
    seconds_per_step: float | None
    """From measured runs of this base, device and shape; null when there is none: probe."""
    fitting: Fitting | None = None
    """What makes the run fit the memory that was asked about; null when it does, or none was asked about. Of
    a plan that was to be made to fit: what was changed for it."""


def make_plan(
    config: TrainConfig,
    base: BaseDescription,
    dataset: DatasetSummary,
    *,
    processes: int = 1,
    seconds_per_step: float | None = None,
) -> Plan:
    """Predict what ``config`` takes on ``base`` with ``dataset``; under 10 ms."""
    resolution, held_out = config.data.resolution_px or base.native_px, dataset.held_out_images > 0
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
    trainable = trainable_parameters(config, base)
    memory = memory_of(config, base, dataset)
    classes = 0 if config.prior is None else max(dataset.class_images, config.prior.images)
    images = dataset.train_images + dataset.held_out_images + classes
    views = images + (dataset.train_images + classes if config.data.flip else 0)
    cached_views = 0 if live_latents(config, dataset) else views
    cached_captions = 0 if config.trains_text or dataset.live_captions else images
    checkpoints = most_checkpoints(config, held_out=held_out) * checkpoint_bytes(config, base)
    return Plan(
        images=dataset.train_images,
        held_out_images=dataset.held_out_images,
        kept_out_images=dataset.kept_out_images,
        class_images=classes,
        steps=config.steps,
        epochs=round(config.steps / steps_per_epoch, 2) if steps_per_epoch else 0.0,
        global_batch=global_batch,
        buckets=dict(sorted(buckets.items())),
        upscaled_images=upscaled,
        much_upscaled_images=too_much,
        trainable_parameters=trainable,
        memory=memory,
        memory_total=memory.total,
        disk_bytes=checkpoints
        + weights_file_bytes(config, base)
        + export_bytes(config, base)
        + cached_views * _positions(config, base) * base.latent_channels * LATENT_BYTES
        + cached_captions * base.profile.text_features * BYTES[config.precision],
        seconds_per_step=seconds_per_step,
    )


def export_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """The whole model in each layout that is asked for of a full fine-tune."""
    if config.method != "full":
        return 0
    profile = base.profile
    return config.export.bytes_of(profile.unet_parameters + profile.text_encoder_parameters + profile.vae_parameters)


def memory_of(config: TrainConfig, base: BaseDescription, dataset: DatasetSummary) -> MemoryParts:
    """What ``config`` takes on ``base`` with ``dataset``."""
    return memory_parts(config, base, dataset, positions=_positions(config, base))


def fitted(config: TrainConfig, base: BaseDescription, dataset: DatasetSummary, memory_bytes: int) -> Fitting | None:
    """What to change so that a run fits; None when it does as it is."""

    def taken(changed: TrainConfig) -> int:
        return memory_of(changed, base, dataset).total

    if fits(taken(config), memory_bytes):
        return None
    return fit(config, memory_bytes, taken, config.data.resolution_px or base.native_px)


def most_checkpoints(config: TrainConfig, *, held_out: bool) -> int:
    """How many checkpoints lie on the disk at once at most."""
    every, judged = config.checkpoint.every_steps, config.held_out.every_steps
    best = held_out and config.held_out.keep_best and judged is not None
    # The last step is always saved, and the best when it is measured.
    saved = 1 + (config.steps // every if every else 0) + (config.steps // judged if best and judged else 0)
    # The next one is written before the oldest goes; the best stays beside the newest.
    return min(config.checkpoint.keep + 1 + int(best), saved)


def checkpoint_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """Of one checkpoint."""
    return weights_file_bytes(config, base) + optimizer_bytes(config, base) + average_bytes(config, base)


def weights_file_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """Of the trained weights as they are saved."""
    each = weight_bytes(config) if config.method == "full" else FULL_PRECISION
    return trainable_parameters(config, base) * each


def step_shape(config: TrainConfig, dataset: DatasetSummary) -> tuple[object, ...]:
    """What the seconds of a step depend on, besides the base, the device and the number of processes."""
    lora, full, texts = config.lora, config.full, config.trained_text_encoders
    return (
        config.method,
        config.batch_size,
        config.gradient_accumulation_steps,
        config.precision,
        config.gradient_checkpointing,
        config.data.resolution_px,
        config.optimizer.kind,
        config.prior is not None,
        *((lora.rank, lora.targets) if config.method == "lora" else (full.master_weights, full.fused_backward)),
        # Added where they are used alone, so that what was measured of steps without them counts on.
        *(("texts", texts) if texts else ()),
        *(("quantize", config.quantize) if config.quantize else ()),
        *(("dora",) if config.method == "lora" and lora.dora else ()),
        *(("dropout",) if config.method == "lora" and lora.dropout else ()),
        *(("live latents",) if live_latents(config, dataset) else ()),
        *(("live captions",) if dataset.live_captions else ()),
    )


def _positions(config: TrainConfig, base: BaseDescription) -> int:
    """Latent positions of an image of the run's resolution."""
    side_px: int = config.data.resolution_px or base.native_px
    return (side_px // base.vae_factor) ** 2


def _steps(count: float, global_batch: int) -> float:
    """Steps of one bucket in an epoch; a count between two whole numbers is the mean of epochs with either."""
    whole = math.floor(count)
    more = count - whole
    return (1 - more) * math.ceil(whole / global_batch) + more * math.ceil((whole + 1) / global_batch)
