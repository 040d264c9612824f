"""AdamW over one flat vector of everything that is trained, and the learning rate of each step.

One vector makes the update one fused kernel, the gradients of all ranks one reduction, and the norm one reduction
of one buffer. Knows nothing about what the parameters are for. Loshchilov and Hutter 2019 (arXiv:1711.05101).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from contracts.train import OptimizerSettings

ALIGNMENT = 64
"""Elements; each parameter starts on a boundary, so kernels see the alignment torch itself would give it."""


class FlatParameters:
    """Named fp32 parameters laid out in one vector; each keeps being a view of it, and so does its gradient."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        self._slices: dict[str, tuple[slice, torch.Size]] = {}
        end = 0
        for name, parameter in named.items():
            self._slices[name] = (slice(end, end + parameter.numel()), parameter.shape)
            end += math.ceil(parameter.numel() / ALIGNMENT) * ALIGNMENT
        device = next(iter(named.values())).device
        self.vector = nn.Parameter(torch.zeros(end, device=device, dtype=torch.float32))
        self.gradient = torch.zeros(end, device=device, dtype=torch.float32)
        self.vector.grad = self.gradient
        self.count = sum(parameter.numel() for parameter in named.values())
        for name, parameter in named.items():
            view = self._view(self.vector.data, name)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self._view(self.gradient, name)

    def split(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """A vector of this layout as named tensors (views)."""
        return {name: self._view(vector, name) for name in self._slices}

    def fill(self, vector: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write named tensors into a vector of this layout; every name must be there."""
        for name in self._slices:
            self._view(vector, name).copy_(tensors[name])

    def _view(self, vector: torch.Tensor, name: str) -> torch.Tensor:
        where, shape = self._slices[name]
        return vector[where].view(shape)


def make_adamw(parameters: FlatParameters, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Fused AdamW over the flat vector, its moments allocated from the start so that they can be loaded into."""
    optimizer = torch.optim.AdamW(
        [parameters.vector],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    state = optimizer.state[parameters.vector]
    state["step"] = torch.zeros((), dtype=torch.float32, device=parameters.vector.device)
    state["exp_avg"] = torch.zeros_like(parameters.vector.data)
    state["exp_avg_sq"] = torch.zeros_like(parameters.vector.data)
    return optimizer


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The rate of optimiser step ``step`` (from 1 to ``steps``): warm-up, then the schedule's shape down to zero."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    done = (step - 1 - settings.warmup_steps) / (steps - settings.warmup_steps)
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - done)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def clip_(gradient: torch.Tensor, max_norm: float | None) -> float:
    """Scale the gradient down to ``max_norm`` in place; returns its norm before."""
    norm = float(torch.linalg.vector_norm(gradient))
    if max_norm is not None and norm > max_norm:
        gradient.mul_(max_norm / norm)
    return norm
