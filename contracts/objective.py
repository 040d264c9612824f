"""The settings of what a run minimises, and the rules between them: pure data, no torch.

Knows nothing about the rest of a configuration. The formulas are in trainer/loss.py.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from contracts.base import PredictionType
from contracts.config import Frozen
from contracts.failures import Contradictions, FieldError


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

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        errors = []
        if self.max_timestep is not None and self.max_timestep < self.min_timestep:
            message = f"({self.max_timestep}) must not be below min_timestep ({self.min_timestep})"
            errors.append(FieldError(pointer="/max_timestep", message=message))
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            message = f"needs v-prediction, not epsilon: {PURE_NOISE}"
            errors.append(FieldError(pointer="/zero_terminal_snr", message=message))
        if errors:
            raise Contradictions(errors)
        return self


PURE_NOISE = "in pure noise there is no picture left that predicting the noise could teach"


def misfits(loss: LossSettings, base_predicts: PredictionType) -> list[FieldError]:
    """What of the objective cannot be done on a base that predicts this."""
    if loss.zero_terminal_snr and (loss.prediction_type or base_predicts) == "epsilon":
        message = f"needs v-prediction and the base predicts the noise: {PURE_NOISE}"
        return [FieldError(pointer="/loss/zero_terminal_snr", message=message)]
    return []
