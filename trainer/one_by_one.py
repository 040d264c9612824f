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
        self._group_of = {name: group for group, names in parameters.members.items() for name in names}
        self._shadows, self._optimizer = _shadowed(parameters, settings, peaks)
        if fused:
            for name in self._group_of:
                parameters.named[name].register_post_accumulate_grad_hook(partial(self._arrived, name))

    def begin(self, step: int, share: float) -> dict[str, float]:
        self._step, self._squares = step, []
        if self._parameters.gradient is not None:
            self._parameters.gradient.zero_()
        return self._optimizer.set_rates(share)

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
        return self._optimizer.state()

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._optimizer.load(tensors)

    def _arrived(self, name: str, parameter: torch.Tensor) -> None:
        """Autograd has the whole gradient of a parameter, and no more use for its value."""
        assert parameter.grad is not None
        gradient = self._processes.sum_(parameter.grad.float())
        parameter.grad = None
        self._squares.append(gradient.square().sum())
        self._update(name, parameter, gradient)

    @torch.no_grad()
    def _update(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        shadow = self._shadows[name]
        shape = as_matrix(parameter.shape)
        shadow.data = parameter.data.float().view(shape)
        shadow.grad = gradient.view(shape)
        self._optimizer.step_alone(self._group_of[name], shadow)
        if parameter.dtype != torch.float32:
            generator = torch.Generator(device=parameter.device)
            generator.manual_seed(keyed_seed("rounding", self._seed, self._step, name))
            parameter.data.copy_(round_to_bf16(shadow.data, generator).view(parameter.shape))
        shadow.data = shadow.data.new_empty(0)
        shadow.grad = None


def _shadowed(
    parameters: FlatParameters, settings: OptimizerSettings, peaks: Mapping[str, float]
) -> tuple[dict[str, nn.Parameter], Optimizer]:
    """An optimiser over fp32 stand-ins for all parameters, which are empty between updates.

    Its state is made for one stand-in after the other, so that no two ever hold values; and it is one optimiser, since
    one for each parameter takes more memory than many a parameter.
    """
    shadows: dict[str, nn.Parameter] = {}
    whole: torch.optim.Optimizer | None = None
    for group, names in parameters.members.items():
        for place, name in enumerate(names):
            value = parameters.named[name].detach()
            shadows[name] = nn.Parameter(value.float().view(as_matrix(value.shape)))
            alone = make_inner({group: {name: shadows[name]}}, settings, peaks)
            shadows[name].data = torch.empty(0, device=value.device)
            if whole is None:
                whole = alone
                continue
            whole.state.update(alone.state)
            if place == 0:
                whole.param_groups.append(alone.param_groups[0])
            else:
                whole.param_groups[-1]["params"].append(shadows[name])
    assert whole is not None
    groups = {group: {name: shadows[name] for name in names} for group, names in parameters.members.items()}
    return shadows, Optimizer(whole, groups, peaks)
