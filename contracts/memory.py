"""The device memory of a run, part by part: arithmetic over the traced profile of its base.

A run first makes class pictures and encodes with what these need alone, then trains, measures and previews with the
model in memory; its peak is the largest of these. Counted are tensors: what a GPU's kernels and allocator take beyond
them, and what importing the libraries takes, is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from contracts.base import AUTOCAST, DORA, DROPOUT, FULL, BaseDescription
from contracts.config import Frozen
from contracts.dataset import DatasetSummary
from contracts.footprint import FULL_PRECISION, Work
from contracts.lora import UNET
from contracts.objective import CLASS_PICTURES_AT_ONCE
from contracts.optimizers import ADAFACTOR_BYTES, STATE_BYTES
from contracts.precision import BYTES, PACKED_BYTES, PACKED_ROW_BYTES
from contracts.train import TrainConfig

ALIGNMENT = 256
"""Trained parameters lie in one vector, each from a multiple of so many numbers on: no block of an 8-bit state has
numbers of two."""


class MemoryParts(Frozen):
    """Bytes on the training device at the peak of each part."""

    weights: int
    """Of the UNet, trained or not, and of the text encoders where one is trained."""
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    """What the largest of a training step, a measurement on held-out images and the encoding of a picture that is not
    cached has alive besides."""
    vae: int = 0
    """What previews need instead of a step's activations: the VAE, and sampling or decoding; 0 in plans made before
    it was counted."""
    encoding: int = 0
    """What encoding images and captions needs before the model is loaded; likewise."""
    class_pictures: int = 0
    """What making class pictures needs before that: the frozen UNet, the VAE, and sampling or decoding; likewise."""
    encoders: int = 0
    """Those that stay beside the model, as what they say of a picture or a caption is not cached; likewise."""
    loading: int = 0
    """The weights of a full fine-tune as they were read, beside those that are trained, until these are filled."""
    update: int = 0
    """What the optimiser's step needs instead of a step's activations."""

    @property
    def total(self) -> int:
        """The peak of the run."""
        resident = self.weights + self.adapters + self.gradients + self.optimizer + self.encoders
        working = resident + max(self.activations, self.vae, self.update)
        return max(self.encoding, self.class_pictures, self.loading, working)


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


def memory_parts(config: TrainConfig, base: BaseDescription, data: DatasetSummary, *, positions: int) -> MemoryParts:
    """What ``config`` takes on ``base`` with ``data``.

    Args:
        positions: latent positions of one image, the largest bucket's.
    """
    profile = base.profile
    full = config.method == "full"
    trained = laid_out(config, base)
    bytes_each = BYTES[config.precision]
    dense = _dense_bytes(config, base)

    def work(images: int, component: str = UNET) -> Work:
        rank = 0.0 if full else _mean_rank(component, config, base)
        return Work(images=images, positions=positions, rank=rank, bytes_each=bytes_each)

    kept_bytes = weight_bytes(config)
    way = _way(config, config.lora.targets)
    steps = profile.steps[way]
    footprint = steps.checkpointed if config.gradient_checkpointing else steps.plain
    step = footprint.peak_bytes(work(config.batch_size)) + dense + _text_step_bytes(config, base, work)
    if full and config.trained_text_encoders:
        # The last gradients that are made, those of the tokens' embeddings, are as large as these and made whole.
        step = max(step, max(profile.text_largest[name] for name in config.trained_text_encoders) * kept_bytes)
    update = update_bytes(config, base)
    if config.full.fused_backward:
        # The largest parameters lie in the middle of the network: half of what is kept is gone when their turn comes.
        step, update = max(step, step // 2 + update), 0
    # Without gradients too, autocast keeps its copies of the weights for a whole pass.
    beside = dense + (profile.unet_parameters * bytes_each if way.endswith(AUTOCAST) else 0)
    measuring = profile.sampling.peak_bytes(work(config.held_out.timesteps)) + beside if data.held_out_images else 0
    one_picture = Work(images=1, positions=positions)
    vae_weights = profile.vae_parameters * FULL_PRECISION
    text_weights = profile.text_encoder_parameters * FULL_PRECISION
    encoding_one = profile.vae_encoding.peak_bytes(one_picture)
    # What is not cached of a picture is encoded for the step that sees it, between two passes of the model.
    in_steps = live_latents(config, data)
    live_texts = text_weights if data.live_captions else 0
    encoders = live_texts + (vae_weights if in_steps else 0)
    making = _class_picture_bytes(config, base, data, one_picture)
    vae = 0
    if config.preview.prompts:
        guided = config.preview.guidance_scale > 1
        sampling = profile.sampling.peak_bytes(work(preview_images(config) * (2 if guided else 1))) + beside
        vae = vae_weights + max(sampling, profile.vae_decoding.peak_bytes(one_picture))
    weights = resting_bytes(config, base)
    # Class pictures' gradients are added to those of their slice before these join the other slices'.
    sums = 2 if config.prior is not None and config.gradient_accumulation_steps > 1 else 1
    gradients = 0 if config.full.fused_backward else trained * (kept_bytes if full else FULL_PRECISION) * sums
    return MemoryParts(
        weights=weights,
        adapters=0 if full else trained * FULL_PRECISION,
        gradients=gradients,
        optimizer=optimizer_bytes(config, base) + average_bytes(config, base),
        activations=max(step, measuring, encoding_one if in_steps else 0),
        vae=vae,
        encoding=max(text_weights, live_texts + vae_weights + (0 if in_steps else encoding_one)),
        class_pictures=making + live_texts if making else 0,
        encoders=encoders,
        loading=encoders + weights + trained * kept_bytes + gradients if full else 0,
        update=update,
    )


def _dense_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """Of a quantised layer, made dense while it computes; int8 by way of fp32."""
    if config.quantize is None:
        return 0
    bytes_each = BYTES[config.precision]
    by_way_of = FULL_PRECISION if config.quantize == "int8" and bytes_each != FULL_PRECISION else 0
    return base.profile.packed_largest * (bytes_each + by_way_of)


def _class_picture_bytes(config: TrainConfig, base: BaseDescription, data: DatasetSummary, one_picture: Work) -> int:
    """What making those that are lacking takes; nothing where none is."""
    if config.prior is None or not config.prior.to_make(data.class_images):
        return 0
    profile, bytes_each = base.profile, BYTES[config.precision]
    images = CLASS_PICTURES_AT_ONCE * (2 if config.prior.guidance_scale > 1 else 1)
    sampled = one_picture.model_copy(update={"images": images, "bytes_each": bytes_each})
    sampling = profile.sampling.peak_bytes(sampled) + _dense_bytes(config, base)
    networks = _unet_bytes(config, base, bytes_each) + profile.vae_parameters * FULL_PRECISION
    return networks + max(sampling, profile.vae_decoding.peak_bytes(one_picture))


def _text_step_bytes(config: TrainConfig, base: BaseDescription, work: Callable[[int, str], Work]) -> int:
    """What a step keeps of its captions for text encoders in training."""
    profile, total = base.profile, 0
    for name in config.trained_text_encoders:
        if config.method == "lora":
            total += profile.text_steps[_way(config, name)].peak_bytes(work(config.batch_size, name))
        elif _way(config, name) == FULL:
            total += profile.full_text_steps[name].peak_bytes(work(config.batch_size, name))
        else:
            # Autocast is not traced of an encoder: counted as a step in fp32, and copies of what is trained.
            in_fp32 = work(config.batch_size, name).model_copy(update={"bytes_each": FULL_PRECISION})
            total += profile.full_text_steps[name].peak_bytes(in_fp32)
            total += profile.text_trained[name] * BYTES[config.precision]
    return total


def resting_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """Of the networks that stay in memory, adapters aside."""
    profile, bytes_each = base.profile, weight_bytes(config)
    # Both encoders stay where one is trained, as a prompt is read by both.
    texts = profile.text_encoder_parameters if config.trains_text else 0
    return _unet_bytes(config, base, bytes_each) + texts * bytes_each


def _unet_bytes(config: TrainConfig, base: BaseDescription, bytes_each: int) -> int:
    """Of the UNet's weights, each of so many bytes where it is not quantised."""
    profile = base.profile
    if config.quantize is None:
        return profile.unet_parameters * bytes_each
    dense = (profile.unet_parameters - profile.packed_weights) * bytes_each
    rows = profile.packed_rows * PACKED_ROW_BYTES[config.quantize]
    return dense + rows + math.ceil(profile.packed_weights * PACKED_BYTES[config.quantize])


def laid_out(config: TrainConfig, base: BaseDescription) -> int:
    """Numbers of the vector that is trained, the gaps in it counted where they weigh: those between small adapters."""
    if config.method == "full":
        return trainable_parameters(config, base)

    def aligned(numbers: int) -> int:
        return math.ceil(numbers / ALIGNMENT) * ALIGNMENT

    return sum(
        aligned(how.rank_of(name) * inputs) + aligned(how.rank_of(name) * outputs) + how.dora * aligned(outputs)
        for component, how in config.lora.adaptations().items()
        for name, (inputs, outputs) in _layers(component, config, base).items()
    )


def weight_bytes(config: TrainConfig) -> int:
    """Of a number of the UNet's weights in memory."""
    if config.method == "lora":
        return BYTES[config.precision]
    return FULL_PRECISION if config.full.master_weights == "fp32" else BYTES["bf16"]


def average_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """The moving average of everything that is trained, in fp32."""
    return 0 if config.ema is None else laid_out(config, base) * FULL_PRECISION


def optimizer_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """What the optimiser keeps between steps."""
    if config.optimizer.kind != "adafactor":
        return math.ceil(laid_out(config, base) * STATE_BYTES[config.optimizer.kind])
    if config.method == "full":
        texts = sum(base.profile.text_rows_and_columns[name] for name in config.full.text_encoders)
        return (base.profile.unet_rows_and_columns + texts) * ADAFACTOR_BYTES
    total = 0
    for component, how in config.lora.adaptations().items():
        for name, (inputs, outputs) in _layers(component, config, base).items():
            total += inputs + outputs + 2 * how.rank_of(name) + (outputs if how.dora else 0)
    return total * ADAFACTOR_BYTES


def update_bytes(config: TrainConfig, base: BaseDescription) -> int:
    """Copies that updating the largest parameter makes; where all are updated by one kernel there is none."""
    if config.method == "lora":
        return 0
    # HF's Adafactor has two at once of the size of what it updates.
    own = 2 * FULL_PRECISION if config.optimizer.kind == "adafactor" else 0
    if config.full.master_weights == "bf16-stochastic":
        # Weight and gradient in fp32; then the bits that decide the rounding, and what is rounded.
        own = 2 * FULL_PRECISION + max(own, FULL_PRECISION + BYTES["bf16"])
    elif config.full.fused_backward:
        # For the norm.
        own = max(own, FULL_PRECISION)
    return base.profile.unet_largest * own


def live_latents(config: TrainConfig, data: DatasetSummary) -> bool:
    """Whether pictures are encoded when they are used and none is cached, as a random window is another each time."""
    return data.live_latents or config.data.crop == "random"


def preview_images(config: TrainConfig) -> int:
    """Pictures sampled together in a preview; guidance doubles them."""
    return max(1, min(config.batch_size // 2, len(config.preview.prompts)))


def adapted_names(config: TrainConfig, base: BaseDescription) -> list[str]:
    """The layers that a LoRA adapts, by the names that patterns know."""
    return [name for component in config.lora.adaptations() for name in _layers(component, config, base)]


def _way(config: TrainConfig, what: str) -> str:
    """By what name a profile has the step of a target set or text encoder, or of the whole UNet."""
    if config.method == "full":
        return FULL if weight_bytes(config) == BYTES[config.precision] else FULL + AUTOCAST
    return what + (DORA if config.lora.dora else "") + (DROPOUT if config.lora.dropout else "")


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
