"""Gradients are measured after the loss scale is taken out, and clipped to the norm and never up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.optimizers import OptimizerSettings
from trainer.flat import FlatParameters
from trainer.optim import make_optimizer
from trainer.processes import Processes
from trainer.update import AtOnce

ALONE = Processes(0, 1, torch.device("cpu"))


def make_update(max_norm: float | None) -> tuple[FlatParameters, AtOnce]:
    flat = FlatParameters({"unet": {"w": nn.Parameter(torch.zeros(2))}})
    return flat, AtOnce(flat, make_optimizer(flat, OptimizerSettings(), {"unet": 0.1}), ALONE, max_norm)


class TestAtOnce:
    @pytest.mark.parametrize(("max_norm", "left"), [(10.0, [3.0, 4.0]), (None, [3.0, 4.0]), (1.0, [0.6, 0.8])])
    def test_scales_down_to_the_norm_and_never_up(self, max_norm: float | None, left: list[float]) -> None:
        flat, update = make_update(max_norm)
        update.begin(1, 1.0)
        flat.gradient[:2] = torch.tensor([3.0, 4.0]) * 1024
        assert update.finish(1024.0) == 5.0
        update.apply()
        torch.testing.assert_close(flat.gradient[:2], torch.tensor(left))
        assert update.begin(2, 0.5) == {"unet": 0.05}
        assert flat.gradient.eq(0).all()
