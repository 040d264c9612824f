"""The update of everything trained: an optimiser over the groups of the flat vector, each with its own peak rate.

What it keeps between steps goes into a checkpoint by name and comes back bit for bit. Knows nothing about what the
parameters are for, nor where the share of the peak rate comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from contracts.train import OptimizerSettings
from trainer.flat import FlatParameters


class Optimizer:
    """A library's optimiser over named tensors, with states that can be saved.

    Args:
        inner: it; one parameter group for each group that has a peak rate, in that order.
        updated: what it updates, by name.
        peaks: peak learning rate of each group.
    """

    def __init__(
        self, inner: torch.optim.Optimizer, updated: Mapping[str, nn.Parameter], peaks: Mapping[str, float]
    ) -> None:
        self._inner = inner
        self._updated = updated
        self._peaks = peaks

    def set_rates(self, share: float) -> dict[str, float]:
        """Set every group's learning rate to a share of its peak; returns them."""
        rates = {group: peak * share for group, peak in self._peaks.items()}
        for settings, rate in zip(self._inner.param_groups, rates.values(), strict=True):
            settings["lr"] = rate
        return rates

    def step(self) -> None:
        self._inner.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything kept between steps as "name/state" -> tensor; a whole number is int64, another float64."""
        return {
            f"{name}/{key}": value if isinstance(value, torch.Tensor) else _boxed(value)
            for name, parameter in self._updated.items()
            for key, value in self._inner.state.get(parameter, {}).items()
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what ``state`` gave; tensors that are there already are written into, not replaced."""
        for name, tensor in tensors.items():
            owner, _, key = name.rpartition("/")
            parameter = self._updated[owner]
            state = self._inner.state[parameter]
            if isinstance(there := state.get(key), torch.Tensor):
                there.copy_(tensor)
            elif tensor.ndim == 0 and tensor.dtype in (torch.int64, torch.float64):
                state[key] = tensor.item()
            else:
                state[key] = tensor.to(parameter.device)


def make_optimizer(parameters: FlatParameters, settings: OptimizerSettings, peaks: Mapping[str, float]) -> Optimizer:
    """The optimiser of ``settings`` over all groups; ``peaks`` has each group's learning rate at its highest."""
    groups: list[dict[str, Any]] = [{"params": [parameters.groups[group]], "lr": peak} for group, peak in peaks.items()]
    inner = _adamw(groups, settings)
    return Optimizer(inner, parameters.groups, peaks)


def clip_(gradient: torch.Tensor, max_norm: float | None) -> float:
    """Scale the gradient down to ``max_norm`` in place; returns its norm before."""
    norm = float(torch.linalg.vector_norm(gradient))
    if max_norm is not None and norm > max_norm:
        gradient.mul_(max_norm / norm)
    return norm


def _adamw(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Fused AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), its moments there from the start."""
    inner = torch.optim.AdamW(
        groups, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay, fused=True
    )
    for group in inner.param_groups:
        for parameter in group["params"]:
            inner.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter.data),
                "exp_avg_sq": torch.zeros_like(parameter.data),
            }
    return inner


def _boxed(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.int64 if isinstance(number, int) else torch.float64)
