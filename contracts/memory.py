"""The device memory of a run, part by part: arithmetic over the traced profile of its base.

A run first encodes with the VAE and the text encoders alone, then trains, measures and previews with the model in
memory; its peak is the larger of the two. Counted are tensors: what a GPU's kernels and allocator take beyond them,
and what importing the libraries takes, is not in it.
"""

from __future__ import annotations

import math

from contracts.base import BaseDescription
from contracts.config import Frozen
from contracts.footprint import FULL_PRECISION, Work
from contracts.lora import UNET
from contracts.optimizers import ADAFACTOR_BYTES, STATE_BYTES
from contracts.train import TrainConfig

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""A number of each compute type."""


class MemoryParts(Frozen):
    """Bytes on the training device at the peak of each part."""

    weights: int
    """Of the UNet, trained or not, and of the text encoders where one is trained."""
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    """What the largest of a training step and a measurement on held-out images has alive besides."""
    vae: int = 0
    """What previews need instead of a step's activations: the VAE, and sampling or decoding; 0 in plans made before
    it was counted."""
    encoding: int = 0
    """What encoding images and captions needs before the model is loaded; likewise."""

    @property
    def total(self) -> int:
        """The peak of the run."""
        resident = self.weights + self.adapters + self.gradients + self.optimizer
        return max(self.encoding, resident + max(self.activations, self.vae))


def trainable_parameters(config: TrainConfig, base: BaseDescription) -> int:
    """How many numbers are trained."""
    if config.method == "full":
        return base.profile.unet_parameters + sum(base.profile.text_trained[name] for name in config.full.text_encoders)
    return sum(adapter_parameters(config, base).values())


def adapter_parameters(config: TrainConfig, base: BaseDescription) -> dict[str, int]:
    """Numbers of the adapter on each component; DoRA learns one more for each output."""
    return {
        component: sum(
            how.rank_of(name) * (inputs + outputs) + (outputs if how.dora else 0)
            for name, (inputs, outputs) in _layers(component, config, base).items()
        )
        for component, how in config.lora.adaptations().items()
    }


def memory_parts(config: TrainConfig, base: BaseDescription, *, positions: int, held_out: bool) -> MemoryParts:
    """What ``config`` takes on ``base``.

    Args:
        positions: latent positions of one image, the largest bucket's.
        held_out: whether there are images to measure on.
    """
    profile = base.profile
    full = config.method == "full"
    trained = trainable_parameters(config, base)
    bytes_each = BYTES[config.precision]

    def work(images: int, component: str = UNET) -> Work:
        rank = 0.0 if full else _mean_rank(component, config, base)
        return Work(images=images, positions=positions, rank=rank, bytes_each=bytes_each)

    steps = profile.steps["full" if full else config.lora.targets]
    footprint = steps.checkpointed if config.gradient_checkpointing else steps.plain
    step = footprint.peak_bytes(work(config.batch_size))
    texts = config.trained_text_encoders
    of_texts = [(profile.full_text_steps if full else profile.text_steps)[name] for name in texts]
    step += sum(one.peak_bytes(work(config.batch_size, name)) for name, one in zip(texts, of_texts, strict=True))
    kept_bytes = weight_bytes(config)
    if full and kept_bytes != bytes_each:
        # Autocast keeps norms and sums in fp32 and a copy of each weight in the compute type. Not traced: counted as a
        # step in fp32 and the copies.
        in_fp32 = work(config.batch_size).model_copy(update={"bytes_each": FULL_PRECISION})
        step = sum(one.peak_bytes(in_fp32) for one in (footprint, *of_texts)) + trained * bytes_each
    if full and texts:
        # The last gradients that are made, those of the tokens' embeddings, are as large as these and made whole.
        step = max(step, max(profile.text_largest[name] for name in texts) * kept_bytes)
    measuring = profile.sampling.peak_bytes(work(config.held_out.timesteps)) if held_out else 0
    one_picture = Work(images=1, positions=positions)
    vae_weights = profile.vae_parameters * FULL_PRECISION
    vae = 0
    if config.preview.prompts:
        guided = config.preview.guidance_scale > 1
        sampling = profile.sampling.peak_bytes(work(preview_images(config) * (2 if guided else 1)))
        vae = vae_weights + max(sampling, profile.vae_decoding.peak_bytes(one_picture))
    # Both encoders stay where one is trained, as a prompt is read by both.
    resident = profile.unet_parameters + (profile.text_encoder_parameters if texts else 0)
    # Class pictures' gradients are added to those of their slice before these join the other slices'.
    sums = 2 if config.prior is not None and config.gradient_accumulation_steps > 1 else 1
    return MemoryParts(
        weights=resident * kept_bytes,
        adapters=0 if full else trained * FULL_PRECISION,
        gradients=0 if config.full.fused_backward else trained * (kept_bytes if full else FULL_PRECISION) * sums,
        optimizer=optimizer_bytes(config, base) + average_bytes(config, base),
        activations=max(step, measuring),
        vae=vae,
        encoding=max(
            vae_weights + profile.vae_encoding.peak_bytes(one_picture), profile.text_encoder_parameters * FULL_PRECISION
        ),
    )


def weight_bytes(config: TrainConfig) -> int:
    """Of a number of the UNet's weights in memory."""
    if config.method == "lora":
        return BYTES[config.precision]
    return FULL_PRECISION if config.full.master_weights == "fp32" else BYTES["bf16"]


def average_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """The moving average of everything that is trained, in fp32."""
    return 0 if config.ema is None else trainable_parameters(config, base) * FULL_PRECISION


def optimizer_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """What the optimiser keeps between steps."""
    if config.optimizer.kind != "adafactor":
        return math.ceil(trainable_parameters(config, base) * STATE_BYTES[config.optimizer.kind])
    if config.method == "full":
        texts = sum(base.profile.text_rows_and_columns[name] for name in config.full.text_encoders)
        return (base.profile.unet_rows_and_columns + texts) * ADAFACTOR_BYTES
    total = 0
    for component, how in config.lora.adaptations().items():
        for name, (inputs, outputs) in _layers(component, config, base).items():
            total += inputs + outputs + 2 * how.rank_of(name) + (outputs if how.dora else 0)
    return total * ADAFACTOR_BYTES


def preview_images(config: TrainConfig) -> int:
    """Pictures sampled together in a preview; guidance doubles them."""
    return max(1, min(config.batch_size // 2, len(config.preview.prompts)))


def _mean_rank(component: str, config: TrainConfig, base: BaseDescription) -> float:
    """Of a component's layers, the larger ones counting for more."""
    layers, how = _layers(component, config, base), config.lora.adaptations()[component]
    ranked = sum(how.rank_of(name) * (inputs + outputs) for name, (inputs, outputs) in layers.items())
    return ranked / sum(inputs + outputs for inputs, outputs in layers.values())


def _layers(component: str, config: TrainConfig, base: BaseDescription) -> dict[str, tuple[int, int]]:
    """The adapted layers of a component by the names that patterns know: name -> (inputs, outputs)."""
    if component == UNET:
        return base.profile.adapted(config.lora.targets)
    layers = base.profile.text_modules[component]
    return {"text_model." + name.removeprefix("text_model."): sides for name, sides in layers.items()}
