"""What the loop keeps besides tensors."""

from __future__ import annotations

import pytest

from trainer.loop import SMOOTHING, Record


class TestSmoothedLoss:
    def test_of_a_short_run_is_the_mean_and_not_drawn_to_its_first_step(self) -> None:
        record = Record()
        for loss in (9.0, 1.0, 1.0, 1.0):
            record.add(loss, 1.0, steps=1000)
        assert record.loss_smooth == pytest.approx(3.0)

    def test_later_forgets_at_its_own_pace(self) -> None:
        record = Record()
        for _ in range(200):
            record.add(1.0, 1.0, steps=1000)
        record.add(2.0, 1.0, steps=1000)
        assert record.loss_smooth == pytest.approx(1.0 + SMOOTHING)
