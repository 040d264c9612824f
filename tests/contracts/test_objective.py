"""Which objectives a base refuses."""

from __future__ import annotations

import pytest

from contracts.base import Denoising, PredictionType
from contracts.objective import LossSettings, misfits

NOISE, VELOCITY, PURE = Denoising("epsilon"), Denoising("v_prediction"), Denoising("v_prediction", True)


class TestMisfits:
    @pytest.mark.parametrize(
        ("predicts", "pure", "base", "pointers"),
        [
            (None, None, NOISE, []),
            (None, None, PURE, []),
            ("v_prediction", True, NOISE, []),
            ("epsilon", None, VELOCITY, []),
            ("epsilon", False, PURE, []),
            (None, True, NOISE, ["/loss/zero_terminal_snr"]),
            ("epsilon", None, PURE, ["/loss/prediction_type"]),
            (None, None, Denoising("epsilon", True), ["/loss/prediction_type"]),
        ],
    )
    def test_predicting_the_noise_from_pure_noise_is_refused_whoever_asks_for_either(
        self, predicts: PredictionType | None, pure: bool | None, base: Denoising, pointers: list[str]
    ) -> None:
        loss = LossSettings(prediction_type=predicts, zero_terminal_snr=pure)
        assert [error.pointer for error in misfits(loss, base)] == pointers
