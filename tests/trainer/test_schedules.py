"""The learning rate has the shape asked for."""

from __future__ import annotations

from contracts.train import OptimizerSettings
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
