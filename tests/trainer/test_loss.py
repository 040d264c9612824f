"""The objective, against what the papers say it must be."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from sdxl.networks import schedule_as_trained
from trainer.loss import add_noise, alphas_cumprod, min_snr_weight, squared_error, target

ALPHA = alphas_cumprod({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
SNR = ALPHA / (1 - ALPHA)


class TestZeroTerminalSnr:
    SCHEDULE: ClassVar[dict[str, object]] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "timestep_spacing": "leading",
    }

    def test_is_pure_noise_at_the_last_step_and_as_it_was_at_the_first(self) -> None:
        """√ᾱ' = (√ᾱ - √ᾱ_T) √ᾱ_1 / (√ᾱ_1 - √ᾱ_T): Lin et al. 2023, algorithm 1."""
        rescaled = alphas_cumprod(schedule_as_trained(self.SCHEDULE, None, True))
        root = ALPHA.sqrt()
        wanted = (root - root[-1]) * root[0] / (root[0] - root[-1])
        torch.testing.assert_close(rescaled.sqrt(), wanted, rtol=1e-4, atol=1e-6)
        assert rescaled[-1] == 0
        assert ALPHA[-1] > 0

    def test_is_sampled_from_its_last_step(self) -> None:
        scheduler = EulerDiscreteScheduler.from_config(schedule_as_trained(self.SCHEDULE, None, True))
        scheduler.set_timesteps(4)
        assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
        assert scheduler.sigmas[0] > 1000

    def test_is_what_the_base_says_unless_the_run_says_otherwise(self) -> None:
        assert schedule_as_trained(self.SCHEDULE, None, None) == self.SCHEDULE
        own = self.SCHEDULE | {"rescale_betas_zero_snr": True}
        assert schedule_as_trained(own, None, None) == own
        assert schedule_as_trained(own, "epsilon", False)["rescale_betas_zero_snr"] is False


class TestMinSnrWeight:
    def test_for_epsilon_is_min_snr_gamma_over_snr(self) -> None:
        torch.testing.assert_close(min_snr_weight(ALPHA, 5.0, "epsilon"), SNR.clamp(max=5.0) / SNR)

    def test_for_v_is_min_snr_gamma_over_snr_plus_one(self) -> None:
        torch.testing.assert_close(min_snr_weight(ALPHA, 5.0, "v_prediction"), SNR.clamp(max=5.0) / (SNR + 1))

    def test_weighs_the_same_error_of_the_picture_alike_in_both(self) -> None:
        """An error δ in x is an error of √SNR δ in ε and of √(SNR + 1) δ in v: both must weigh min(SNR, γ) δ²."""
        wanted = SNR.clamp(max=5.0)
        torch.testing.assert_close(min_snr_weight(ALPHA, 5.0, "epsilon") * SNR, wanted)
        torch.testing.assert_close(min_snr_weight(ALPHA, 5.0, "v_prediction") * (SNR + 1), wanted)

    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
    def test_is_finite_at_pure_noise_and_at_no_noise(self, kind: str) -> None:
        assert min_snr_weight(torch.tensor([0.0, 1.0]), 5.0, kind).isfinite().all()  # type: ignore[arg-type]

    def test_is_one_without_gamma(self) -> None:
        assert (min_snr_weight(ALPHA, None, "epsilon") == 1).all()


class TestTarget:
    def test_v_and_the_noised_picture_give_the_picture_back(self) -> None:
        x, noise = torch.randn(2, 3, 4, 4, 4)
        alpha = ALPHA[[10, 500, 990]]
        a = alpha.view(-1, 1, 1, 1)
        noisy, v = add_noise(x, noise, alpha), target(x, noise, alpha, "v_prediction")
        torch.testing.assert_close(a.sqrt() * noisy - (1 - a).sqrt() * v, x)
        assert target(x, noise, alpha, "epsilon") is noise


class TestSquaredError:
    def test_is_each_samples_mean_in_fp32(self) -> None:
        wrong = torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16)
        wrong[1] = 2
        assert squared_error(wrong, torch.zeros(2, 4, 8, 8)).tolist() == [0.0, 4.0]
