"""The denoising objective, as the papers write it: pure functions on tensors.

Ho et al. 2020 (arXiv:2006.11239), v-prediction from Salimans and Ho 2022 (arXiv:2202.00512), min-SNR weighting
from Hang et al. 2023 (arXiv:2303.09556). Knows nothing about UNets or configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from contracts.base import PredictionType
from sdxl.stock import DDPMScheduler


def alphas_cumprod(scheduler_config: Mapping[str, Any]) -> torch.Tensor:
    """ᾱ_t of the base's own noise schedule, in fp32 on the CPU."""
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    chosen = {key: scheduler_config[key] for key in keys if key in scheduler_config}
    return DDPMScheduler(**chosen).alphas_cumprod


def add_noise(x: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """x_t = √ᾱ x + √(1 - ᾱ) ε, with ᾱ of each sample."""
    a = _per_sample(alpha)
    return a.sqrt() * x + (1 - a).sqrt() * noise


def target(x: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, prediction_type: PredictionType) -> torch.Tensor:
    """What the UNet should predict: ε, or v = √ᾱ ε - √(1 - ᾱ) x."""
    if prediction_type == "epsilon":
        return noise
    a = _per_sample(alpha)
    return a.sqrt() * noise - (1 - a).sqrt() * x


def min_snr_weight(alpha: torch.Tensor, gamma: float | None, prediction_type: PredictionType) -> torch.Tensor:
    """min(SNR, γ) / SNR when ε is predicted, min(SNR, γ) / (SNR + 1) when v is; 1 without γ.

    Written so that SNR = 0 (a schedule that ends in pure noise) and SNR = ∞ give finite weights.
    """
    if gamma is None:
        return torch.ones_like(alpha)
    if prediction_type == "epsilon":
        # 1 / SNR = (1 - ᾱ) / ᾱ
        return (gamma * (1 - alpha) / alpha).clamp(max=1.0)
    # SNR / (SNR + 1) = ᾱ and 1 / (SNR + 1) = 1 - ᾱ
    return torch.minimum(alpha, gamma * (1 - alpha))


def squared_error(predicted: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of each sample, in fp32; with weights w [N, 1, h, w] the weighted mean Σ w e / Σ w.

    An error that is the same everywhere gives the same loss under any weights: the size of a mask does not matter.
    """
    error = (predicted.float() - wanted.float()).square()
    if weights is None:
        return error.mean(dim=tuple(range(1, wanted.dim())))
    over = (1, 2, 3)
    return (error * weights).sum(over) / weights.expand_as(error).sum(over)


def mask_weight(mask: torch.Tensor, unmasked_weight: float) -> torch.Tensor:
    """w = m + (1 - m) u: 1 where the mask is white, u where it is black."""
    return mask + (1 - mask) * unmasked_weight


def _per_sample(alpha: torch.Tensor) -> torch.Tensor:
    return alpha.view(-1, 1, 1, 1)
