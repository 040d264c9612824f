"""Run the UNet on noised latents and say how wrong each prediction is, weighted for training or plain.

Knows nothing about where inputs come from or what is done with the errors. The formulas are in loss.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from contracts.base import PredictionType
from trainer.feed import Inputs
from trainer.loss import add_noise, min_snr_weight, squared_error, target
from trainer.weights import Trainable


@dataclass(frozen=True)
class Objective:
    """The denoising objective on one model."""

    model: Trainable
    scheduler_config: Mapping[str, Any]
    """The noise schedule that is trained on, in diffusers' words; previews are sampled on it too."""
    alphas: torch.Tensor
    """Its ᾱ of each timestep, on the device."""
    min_snr_gamma: float | None

    @property
    def prediction_type(self) -> PredictionType:
        """What the UNet learns to predict."""
        found: PredictionType = self.scheduler_config["prediction_type"]
        return found

    def losses(self, inputs: Inputs) -> torch.Tensor:
        """The weighted loss of each sample, where its mask shows it."""
        alpha = self.alphas[inputs.timesteps]
        return self._errors(inputs, inputs.weights) * min_snr_weight(alpha, self.min_snr_gamma, self.prediction_type)

    def errors(self, inputs: Inputs) -> torch.Tensor:
        """The plain squared error of each sample, masks or not."""
        return self._errors(inputs, None)

    def _errors(self, inputs: Inputs, weights: torch.Tensor | None) -> torch.Tensor:
        alpha = self.alphas[inputs.timesteps]
        noisy = add_noise(inputs.latents, inputs.noise, alpha)
        dtype = self.model.base.dtype
        added = {"text_embeds": inputs.conditioning.pooled.to(dtype), "time_ids": inputs.time_ids}
        with self.model.compute():
            predicted = self.model.base.unet(
                noisy.to(dtype),
                inputs.timesteps,
                inputs.conditioning.text.to(dtype),
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return squared_error(predicted, target(inputs.latents, inputs.noise, alpha, self.prediction_type), weights)
