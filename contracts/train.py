"""What to train: the one configuration tree, shared by recipes, the HTTP API and the trainer.

Knows nothing about where things are: no field is a path, a URL or a repository id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contracts.captions import CaptionSettings
from contracts.config import Frozen, digest
from contracts.export import ExportSettings
from contracts.failures import NAME_PATTERN, InvalidInput
from contracts.lora import LoraSettings, PublishedDialect
from contracts.mistakes import Contradiction, Contradictions, checked
from contracts.mixing import Weight
from contracts.objective import EmaSettings, LossSettings, PriorSettings, objective_contradictions
from contracts.optimizers import OptimizerSettings
from contracts.precision import FullSettings, Precision, Quantization, contradictions
from contracts.written import with_overrides

MOST_ACCUMULATED = 1024
"""Forward passes in one optimiser step."""
WEIGHTS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"


class DataSettings(Frozen):
    """How pictures and captions are fed."""

    resolution_px: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side of the square whose area every bucket has; null is the base's native size."""

    bucket_step_px: Annotated[int, Field(ge=8, le=256, multiple_of=8)] | None = None
    """Granularity of bucket sides; null is 64, or 8 for bases smaller than 512 px."""

    max_aspect: Annotated[float, Field(ge=1, le=8)] = 3.0
    """Widest ratio of a bucket's sides."""

    crop: Literal["center", "random"] = "center"
    """Which part of a picture that does not fit its bucket is kept; with random, latents are encoded at each use."""

    max_upscaling: Annotated[float, Field(ge=1, le=64)] | None = 1.5
    """Pictures enlarged more than this to fill their bucket are named in a warning; null names none."""

    concept_weights: Annotated[dict[str, Weight], Field(max_length=256)] = {}  # noqa: RUF012 (pydantic copies it)
    """By concept, how often its pictures are seen relative to the others; times repeats and the data set's weight."""

    captions: CaptionSettings = CaptionSettings()
    """How captions are read and varied."""

    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of samples trained without their caption, which classifier-free guidance needs."""

    flip: bool = False
    """Mirror half of the samples; not for pictures with text or a side."""


class CheckpointSettings(Frozen):
    """When the run's state is saved so that it can go on exactly."""

    every_steps: Annotated[int, Field(ge=1)] | None = 250
    """Steps between checkpoints; null saves only when stopped."""

    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints stay; the one of the lowest held-out loss stays beside them."""


class PreviewSettings(Frozen):
    """Pictures generated from fixed prompts and seeds to watch the run."""

    prompts: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...], Field(max_length=16)] = ()
    """One picture each; the trigger word is put in front where it is missing."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between previews, besides before the first and after the last; null makes only those two."""

    sampling_steps: Annotated[int, Field(ge=1, le=200)] = 25
    """Denoising steps of a preview."""

    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 5.0
    """Classifier-free guidance of a preview."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the first prompt's noise; the next prompts take the next seeds."""


class HeldOutSettings(Frozen):
    """Loss on the held-out split, on fixed noise and timesteps, before, during and after."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between measurements, besides before the first and after the last."""

    timesteps: Annotated[int, Field(ge=1, le=64)] = 4
    """Evenly spread timesteps measured for each held-out picture."""

    stop_after: Annotated[int, Field(ge=1)] | None = None
    """Measurements in a row without a gain after which the run ends; null trains all steps."""

    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share by which a loss must be below the best one to count as a gain for stop_after."""

    keep_best: bool = True
    """Whether a checkpoint is saved when the loss is the lowest after step 0, and kept beside the newest ones."""

    publish: Literal["last", "best"] = "last"
    """The weights the run ends with: of its last step, or of the step whose loss was lowest."""

    @model_validator(mode="after")
    def _measures_what_it_judges_by(self) -> Self:
        broken = []
        if self.stop_after is not None and self.every_steps is None:
            message = "counts measurements: set held_out.every_steps"
            broken.append(Contradiction("/stop_after", message, ("/every_steps",)))
        if self.publish == "best" and (self.every_steps is None or not self.keep_best):
            message = "best needs held_out.every_steps and held_out.keep_best"
            broken.append(Contradiction("/publish", message, ("/every_steps", "/keep_best")))
        if broken:
            raise Contradictions(broken)
        return self


class TrackingSettings(Frozen):
    """Weights & Biases; offline unless WANDB_API_KEY is set where the trainer runs."""

    enabled: bool = True
    """Whether a W&B run is written at all; the run directory's events are always written."""

    project: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] = "patina"
    """W&B project."""

    entity: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] | None = None
    """W&B team or user; null is the key's default."""

    group: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] | None = None
    """Runs shown together."""

    tags: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=16)] = ()
    """Labels to find the run by."""

    log_weights: bool = False
    """Whether the weights are uploaded too, as an artifact, when the run is complete."""


class TrainConfig(Frozen):
    """One training run, complete but for where its base and data are."""

    method: Literal["lora", "full"] = "lora"
    """lora trains adapters; full trains the whole UNet and, opted in, the text encoders."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """Optimiser steps."""

    batch_size: Annotated[int, Field(ge=1, le=1024)] = 4
    """Pictures in one forward pass on one device."""

    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=MOST_ACCUMULATED)] = 1
    """Forward passes whose gradients make one optimiser step."""

    precision: Precision = "bf16"
    """Compute type of the frozen base; adapters are always kept in fp32. fp16 scales the loss and skips overflows."""

    quantize: Quantization | None = None
    """Keep the frozen transformers in 4 bits (nf4) or 8 (int8) under the adapters; null is as precision says."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    init_from: Annotated[str, Field(pattern=WEIGHTS_PATTERN, max_length=130)] | None = None
    """Registered weights of the same base and method to start from: name, name@version or name@alias. Where there is no
    server, --init-weights gives their file."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Every random choice of the run follows from it."""

    trigger_word: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f,]+$")] | None = None
    """Word that stands for what is trained; put in front of captions that lack it."""

    output_name: Annotated[str, Field(pattern=NAME_PATTERN)] = "lora"
    """Name the weights are registered under."""

    output_dialect: PublishedDialect | None = None
    """What a LoRA's file is written in. null is kohya, which ComfyUI, Forge, sd-scripts and diffusers read whole, but
    diffusers where kohya's has no exact reader (DoRA) or no names (a UNet without two layers a block)."""

    measure_floor: bool = True
    """Whether a few bare passes of the UNet follow the last step, to say how close to their floor the steps were."""

    lora: LoraSettings = LoraSettings()
    """Adapters; without effect when method is full."""

    full: FullSettings = FullSettings()
    """Full fine-tuning; without effect when method is lora."""

    export: ExportSettings = ExportSettings()
    """What a full fine-tune is written as besides; without effect when method is lora."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser and schedule."""

    loss: LossSettings = LossSettings()
    """Objective."""

    prior: PriorSettings | None = None
    """DreamBooth: class pictures beside those of a subject, so that the class is not forgotten; null is none."""

    ema: EmaSettings | None = None
    """Measure, show and publish a moving average of the weights; null is the last weights themselves."""

    data: DataSettings = DataSettings()
    """Pictures and captions."""

    checkpoint: CheckpointSettings = CheckpointSettings()
    """Saving and resuming."""

    preview: PreviewSettings = PreviewSettings()
    """Pictures made while training."""

    held_out: HeldOutSettings = HeldOutSettings()
    """Held-out loss."""

    tracking: TrackingSettings = TrackingSettings()
    """Weights & Biases."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        broken = []
        if (warmup := self.optimizer.warmup(self.steps)) >= self.steps:
            message = f"the warm-up of {warmup} steps must be below steps ({self.steps})"
            broken.append(Contradiction("/optimizer/warmup_steps", message, ("/optimizer/warmup_share", "/steps")))
        if self.method == "full" and self.output_dialect is not None:
            message = "must be null with method full: it is a LoRA's"
            broken.append(Contradiction("/output_dialect", message, ("/method",)))
        if self.method == "full":
            for name in self.lora.text_encoders:
                message = f"would train nothing with method full: set full.{name}"
                broken.append(Contradiction(f"/lora/{name}", message, ("/method",)))
        broken += contradictions(
            method=self.method,
            precision=self.precision,
            quantize=self.quantize,
            full=self.full,
            exports=self.export != ExportSettings(),
            accumulates=self.gradient_accumulation_steps > 1,
            clips=self.optimizer.max_grad_norm is not None,
        )
        broken += objective_contradictions(
            self.loss,
            self.prior,
            adds_gradients=self.full.adds_gradients,
            random_crop=self.data.crop == "random",
        )
        if broken:
            raise Contradictions(broken)
        return self

    @property
    def trains_text(self) -> bool:
        """Whether a text encoder is trained, so that what it says of a caption changes with every step."""
        return bool(self.trained_text_encoders)

    @property
    def trained_text_encoders(self) -> tuple[str, ...]:
        """Which text encoders are trained, by diffusers' names of them."""
        return tuple(self.lora.text_encoders if self.method == "lora" else self.full.text_encoders)

    def digest(self) -> str:
        """sha256 of the configuration, written into the weights' header."""
        return digest(self.model_dump(mode="json"))


RESULT_NEUTRAL_FIELDS = frozenset(
    {"checkpoint", "preview", "held_out", "tracking", "export", "output_name", "output_dialect", "measure_floor",
     "data.max_upscaling"}
)  # fmt: skip
"""Fields, with all that is below them, that a resumed run may change without changing what is learned."""


def parse_config(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Build a config from a recipe's values and dotted overrides such as ``{"lora.rank": 8}``.

    Types are taken at their word: "False" is no boolean, true is no number and "8" is none either.

    Raises:
        InvalidInput: with every unknown key, wrong value and contradiction at once.
    """
    merged, errors = with_overrides(values, overrides or {})
    config, mistakes = checked(TrainConfig, merged)
    if errors or config is None:
        raise InvalidInput([*errors, *mistakes], hint="See docs/recipes.md for every setting.")
    return config
