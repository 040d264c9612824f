"""The loss scale is halved by an overflow and doubled after a long time without one."""

from __future__ import annotations

from trainer.loss_scale import GROWTH_STEPS, NO_SCALE, LossScale


class TestLossScale:
    def test_is_halved_by_an_overflow_and_counts_anew(self) -> None:
        assert LossScale(1024.0, 77).after(overflowed=True) == (512.0, 0)

    def test_is_doubled_after_enough_steps_without_one(self) -> None:
        scale = LossScale(1024.0)
        for _ in range(GROWTH_STEPS - 1):
            scale = scale.after(overflowed=False)
        assert scale == (1024.0, GROWTH_STEPS - 1)
        assert scale.after(overflowed=False) == (2048.0, 0)

    def test_is_exhausted_when_it_makes_nothing_larger(self) -> None:
        assert NO_SCALE.exhausted
        assert not LossScale().exhausted
        assert LossScale(2.0).after(overflowed=True).exhausted
