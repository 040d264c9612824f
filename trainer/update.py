"""One optimiser step from gradients to weights: summed over ranks, measured, clipped, applied.

Knows nothing about losses or samples, nor which optimiser it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from contracts.train import TrainConfig
from trainer.flat import FlatParameters
from trainer.one_by_one import OneByOne
from trainer.optim import Optimizer, make_optimizer
from trainer.processes import Processes
from trainer.weights import Trainable


class Update(Protocol):
    """What the loop calls around a backward pass, and what a checkpoint keeps of it."""

    def begin(self, step: int, share: float) -> dict[str, float]:
        """Make ready for the backward pass of ``step`` at a share of the peak rates; returns each group's rate."""

    def finish(self, scale: float) -> float:
        """After the backward pass of a loss times ``scale``: the norm of the gradient of all ranks."""

    def apply(self) -> None:
        """Change the weights; not called when the norm is no finite number."""

    def state(self) -> dict[str, torch.Tensor]:
        """Everything kept between steps, by name."""

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what ``state`` gave."""


class AtOnce:
    """All gradients first, then everything is updated: they can be summed over micro-batches and clipped."""

    def __init__(
        self, parameters: FlatParameters, optimizer: Optimizer, processes: Processes, max_grad_norm: float | None
    ) -> None:
        assert parameters.gradient is not None
        self._gradient = parameters.gradient
        self._optimizer = optimizer
        self._processes = processes
        self._max_norm = max_grad_norm
        self._norm = 0.0

    def begin(self, step: int, share: float) -> dict[str, float]:
        self._gradient.zero_()
        return self._optimizer.set_rates(share)

    def finish(self, scale: float) -> float:
        self._processes.sum_(self._gradient)
        if scale != 1:
            self._gradient.mul_(1 / scale)
        self._norm = float(torch.linalg.vector_norm(self._gradient))
        return self._norm

    def apply(self) -> None:
        if self._max_norm is not None and self._norm > self._max_norm:
            self._gradient.mul_(self._max_norm / self._norm)
        self._optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        return self._optimizer.state()

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._optimizer.load(tensors)


def make_update(model: Trainable, config: TrainConfig, processes: Processes) -> Update:
    """All at once, unless weights in bf16 or gradients that are freed at once ask for one by one."""
    parameters, settings, fused = model.parameters, config.optimizer, config.full.fused_backward
    if fused or parameters.vector.dtype is not torch.float32:
        return OneByOne(parameters, settings, model.peak_rates, processes, fused=fused, seed=config.seed)
    optimizer = make_optimizer(parameters, settings, model.peak_rates)
    return AtOnce(parameters, optimizer, processes, settings.max_grad_norm)
