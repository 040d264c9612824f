"""Updates of one parameter at a time: for gradients that are freed in the backward pass, and for weights kept in bf16.

Knows nothing about losses or samples, nor which optimiser it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from contracts.optimizers import OptimizerSettings
from trainer.draws import keyed_seed
from trainer.flat import FlatParameters
from trainer.flat import norm as norm_of
from trainer.optim import Optimizer, as_matrix, make_inner
from trainer.processes import Processes
from trainer.rounding import round_to_bf16


class OneByOne:
    """Each parameter is updated on its own, and bf16 ones are rounded by chance (trainer/rounding.py).

    In the backward pass, as soon as its gradient is there, which is freed at once: no more than one is ever held. So
    they cannot be summed over micro-batches or clipped to a common norm, which contracts/train.py refuses. Else after
    it, clipped like any. Rounding depends on (seed, step, parameter), so a resume goes on bit for bit.

    Args:
        fused: in the backward pass; the parameters then hold no flat gradient.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        settings: OptimizerSettings,
        peaks: Mapping[str, float],
        processes: Processes,
        *,
        fused: bool,
        seed: int,
    ) -> None:
        self._parameters = parameters
        self._processes = processes
        self._max_norm = settings.max_grad_norm
        self._fused = fused
        self._seed = seed
        self._step = 0
        self._clip = 1.0
        self._squares: list[torch.Tensor] = []
        self._one: dict[str, tuple[nn.Parameter, Optimizer]] = {}
        for group, names in parameters.members.items():
            for name in names:
                self._one[name] = _alone(name, parameters.named[name], group, settings, peaks)
                if fused:
                    parameters.named[name].register_post_accumulate_grad_hook(partial(self._arrived, name))

    def begin(self, step: int, share: float) -> dict[str, float]:
        self._step, self._squares = step, []
        if self._parameters.gradient is not None:
            self._parameters.gradient.zero_()
        rates: dict[str, float] = {}
        for _, optimizer in self._one.values():
            rates |= optimizer.set_rates(share)
        return rates

    def finish(self, scale: float) -> float:
        if self._parameters.gradient is not None:
            self._processes.sum_(self._parameters.gradient)
            norm = norm_of(self._parameters.gradient) / scale
            self._clip = min(1.0, self._max_norm / norm) / scale if self._max_norm and norm else 1 / scale
            return norm
        return float(torch.stack(self._squares).sum().sqrt())

    def apply(self) -> None:
        if not self._fused:
            for name, parameter in self._parameters.named.items():
                assert parameter.grad is not None
                self._update(name, parameter, parameter.grad.float().mul_(self._clip))

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value for _, optimizer in self._one.values() for name, value in optimizer.state().items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            self._one[name.rpartition("/")[0]][1].load({name: value})

    def _arrived(self, name: str, parameter: torch.Tensor) -> None:
        """Autograd has the whole gradient of a parameter, and no more use for its value."""
        assert parameter.grad is not None
        gradient = self._processes.sum_(parameter.grad.float())
        parameter.grad = None
        self._squares.append(gradient.square().sum())
        self._update(name, parameter, gradient)

    @torch.no_grad()
    def _update(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        shadow, optimizer = self._one[name]
        shape = as_matrix(parameter.shape)
        shadow.data = parameter.data.float().view(shape)
        shadow.grad = gradient.view(shape)
        optimizer.step()
        if parameter.dtype != torch.float32:
            generator = torch.Generator(device=parameter.device)
            generator.manual_seed(keyed_seed("rounding", self._seed, self._step, name))
            parameter.data.copy_(round_to_bf16(shadow.data, generator).view(parameter.shape))
        shadow.data = shadow.data.new_empty(0)
        shadow.grad = None


def _alone(
    name: str, parameter: nn.Parameter, group: str, settings: OptimizerSettings, peaks: Mapping[str, float]
) -> tuple[nn.Parameter, Optimizer]:
    """An optimiser of one parameter, over an fp32 stand-in that is empty between updates."""
    shadow = nn.Parameter(parameter.detach().float().view(as_matrix(parameter.shape)))
    groups = {group: {name: shadow}}
    optimizer = Optimizer(make_inner(groups, settings, peaks), groups, peaks)
    shadow.data = shadow.data.new_empty(0)
    return shadow, optimizer
