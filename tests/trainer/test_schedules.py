"""The learning rate has the shape asked for."""

from __future__ import annotations

from typing import get_args

import pytest

from contracts.optimizers import OptimizerSettings, Schedule
from trainer.schedules import peak_share


class TestPeakShare:
    def test_rises_over_the_warm_up_and_falls_as_a_cosine(self) -> None:
        settings = OptimizerSettings(warmup_steps=4)
        shares = [peak_share(step, 104, settings) for step in range(1, 105)]
        assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
        assert shares[4] == 1.0
        assert abs(shares[54] - 0.5) < 1e-9
        assert 0 < shares[-1] < 0.001

    def test_linear_and_constant(self) -> None:
        linear = OptimizerSettings(schedule="linear")
        assert [peak_share(step, 4, linear) for step in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
        constant = OptimizerSettings(schedule="constant")
        assert {peak_share(step, 4, constant) for step in (1, 2, 3, 4)} == {1.0}

    def test_a_warm_up_can_be_a_share_of_the_run(self) -> None:
        by_share, by_steps = OptimizerSettings(warmup_share=0.05), OptimizerSettings(warmup_steps=10)
        assert [peak_share(s, 200, by_share) for s in range(1, 201)] == [
            peak_share(s, 200, by_steps) for s in range(1, 201)
        ]

    def test_a_cosine_with_restarts_is_at_its_peak_as_often_as_asked(self) -> None:
        settings = OptimizerSettings(schedule="cosine-with-restarts", cycles=3)
        shares = [peak_share(step, 30, settings) for step in range(1, 31)]
        assert [step for step, share in enumerate(shares) if share == 1.0] == [0, 10, 20]
        once = [peak_share(step, 10, OptimizerSettings(schedule="cosine")) for step in range(1, 11)]
        assert shares[20:] == pytest.approx(once)

    def test_a_polynomial_of_power_one_is_linear_and_of_two_falls_faster(self) -> None:
        one = OptimizerSettings(schedule="polynomial", power=1.0)
        assert [peak_share(step, 4, one) for step in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
        two = OptimizerSettings(schedule="polynomial", power=2.0)
        assert [peak_share(step, 4, two) for step in (1, 2, 3, 4)] == [1.0, 0.5625, 0.25, 0.0625]

    @pytest.mark.parametrize("schedule", get_args(Schedule))
    def test_every_one_ends_above_zero_and_begins_at_its_peak(self, schedule: Schedule) -> None:
        more = {"cosine-with-restarts": {"cycles": 2}, "polynomial": {"power": 3.0}}.get(schedule, {})
        settings = OptimizerSettings.model_validate({"schedule": schedule, "warmup_steps": 2, **more})
        shares = [peak_share(step, 50, settings) for step in range(1, 51)]
        assert shares[:3] == [0.5, 1.0, 1.0]
        assert all(0 < share <= 1 for share in shares)
