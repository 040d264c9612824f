"""The settings of what a run minimises, and the rules between them: pure data, no torch.

Knows nothing about the rest of a configuration. The formulas are in trainer/loss.py.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from contracts.base import Denoising, PredictionType
from contracts.config import Frozen
from contracts.failures import FieldError
from contracts.mistakes import Contradiction, Contradictions


class MaskedSettings(Frozen):
    """Loss on what the masks show: each picture's own mask, else its alpha channel, else all of it."""

    unmasked_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of what a mask leaves black, beside 1 for what it leaves white. A picture's loss is the mean under its
    weights, so that small masks count as much as large ones."""


class EmaSettings(Frozen):
    """An exponential moving average of the trained weights, which is what is measured, shown and published."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Share of the average that each step keeps; at step n at most (1 + n) / (10 + n)."""


CLASS_PICTURES_AT_ONCE = 2
"""Class pictures sampled in one batch: always so many, as a picture's last bits depend on what is in its batch."""


class PriorSettings(Frozen):
    """DreamBooth's prior preservation (Ruiz et al. 2022, arXiv:2208.12242): class pictures beside the subject's."""

    class_prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    """What the subject is one of, such as "a dog": caption of the class pictures, without the trigger word."""

    images: Annotated[int, Field(ge=1, le=10_000)] = 100
    """How many class pictures there are at least; the base makes those the data set lacks, once for all runs alike."""

    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of the mean loss of the class pictures beside that of the others."""

    concept: Annotated[str, Field(pattern=r"^[\w ,.()'-]{1,100}$")] | None = None
    """Concept of the data set whose pictures are class pictures, not the subject; null: it has none."""

    sampling_steps: Annotated[int, Field(ge=1, le=200)] = 25
    """Denoising steps of a class picture that is made."""

    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 5.0
    """Its classifier-free guidance."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the first; the others take the next seeds."""

    def to_make(self, there: int) -> int:
        """How many class pictures the base makes beside those that are there."""
        return max(self.images - there, 0)


class LossSettings(Frozen):
    """The denoising objective."""

    prediction_type: PredictionType | None = None
    """What the UNet predicts; null reads it from the base."""

    zero_terminal_snr: bool | None = None
    """Rescale the noise schedule so that its last step is pure noise, and sample on it with trailing steps
    (Lin et al. 2023, arXiv:2305.08891); needs v-prediction. null reads it from the base."""

    min_snr_gamma: Annotated[float, Field(gt=0)] | None = 5.0
    """Min-SNR loss weighting (Hang et al. 2023, arXiv:2303.09556); null weighs all timesteps alike. Under v-prediction
    it leaves the noisiest steps next to no weight: null where zero_terminal_snr is to teach them."""

    noise_offset: Annotated[float, Field(gt=0, le=1)] | None = None
    """Strength of a random shift of each whole latent channel of the noise, so that very dark and very bright pictures
    are learned (Guttenberg 2023, Diffusion with Offset Noise); 0.05 is common, null is none."""

    min_timestep: Annotated[int, Field(ge=0, le=999)] = 0
    """Least noisy timestep that is trained on."""

    max_timestep: Annotated[int, Field(ge=0, le=999)] | None = None
    """Noisiest timestep that is trained on, itself included; null is the schedule's last."""

    masked: MaskedSettings | None = None
    """Weigh the loss by masks: a NAME_mask.png beside NAME.png, or alpha; null looks at neither."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        broken = []
        if self.max_timestep is not None and self.max_timestep < self.min_timestep:
            message = f"({self.max_timestep}) must not be below min_timestep ({self.min_timestep})"
            broken.append(Contradiction("/max_timestep", message, ("/min_timestep",)))
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            message = f"needs v-prediction, not epsilon: {PURE_NOISE}"
            broken.append(Contradiction("/zero_terminal_snr", message, ("/prediction_type",)))
        if broken:
            raise Contradictions(broken)
        return self


PURE_NOISE = "in pure noise there is no picture left that predicting the noise could teach"


def misfits(loss: LossSettings, base: Denoising) -> list[FieldError]:
    """What of the objective cannot be done on a base that denoises so."""
    predicts = loss.prediction_type or base.predicts
    from_pure_noise = base.from_pure_noise if loss.zero_terminal_snr is None else loss.zero_terminal_snr
    if predicts != "epsilon" or not from_pure_noise:
        return []
    if loss.zero_terminal_snr:
        message = f"needs v-prediction and the base predicts the noise: {PURE_NOISE}"
        return [FieldError(pointer="/loss/zero_terminal_snr", message=message)]
    message = f"is epsilon, and the base's schedule ends in pure noise, so set zero_terminal_snr: false: {PURE_NOISE}"
    return [FieldError(pointer="/loss/prediction_type", message=message)]


def objective_contradictions(
    loss: LossSettings, prior: PriorSettings | None, *, adds_gradients: bool, random_crop: bool
) -> list[Contradiction]:
    """Which of these settings exclude each other, and why.

    Args:
        adds_gradients: whether those of several backward passes can be added up.
    """
    broken = []
    if prior is not None and not adds_gradients:
        message = "must be null with bf16 weights or full.fused_backward: it adds the gradients of two backward passes"
        broken.append(Contradiction("/prior", message, ("/full/master_weights", "/full/fused_backward")))
    if loss.masked is not None and loss.masked.unmasked_weight == 0 and random_crop:
        message = "must be above 0 with data.crop random: a window may hold nothing of what the mask shows"
        broken.append(Contradiction("/loss/masked/unmasked_weight", message, ("/data/crop",)))
    return broken
