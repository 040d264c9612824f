"""The update of everything trained: an optimiser over the groups of the flat vector, each with its own peak rate.

What it keeps between steps goes into a checkpoint by name and comes back bit for bit. Knows nothing about what the
parameters are for, nor where the share of the peak rate comes from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from contracts.optimizers import BITSANDBYTES_KINDS, OptimizerSettings
from sdxl.stock import Adafactor, bitsandbytes
from trainer.flat import FlatParameters

PIECE_ELEMENTS = 1 << 20
"""bitsandbytes counts elements in 32 bits, and its CPU kernels make five fp32 copies: it is given so many at once."""

Groups = Mapping[str, Mapping[str, nn.Parameter]]
"""What an optimiser updates, by group and name."""


class Optimizer:
    """A library's optimiser over named tensors, with a state that can be saved.

    Args:
        inner: it; one parameter group for each of ``groups``, in that order.
        groups: what it updates.
        peaks: peak learning rate of each group.
        padding: what is updated along with it and has to stay zero.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        groups: Groups,
        peaks: Mapping[str, float],
        padding: Sequence[torch.Tensor] = (),
    ) -> None:
        self._inner = inner
        self._padding = padding
        self._updated = {name: parameter for named in groups.values() for name, parameter in named.items()}
        self._peaks = {group: peaks[group] for group in groups}

    def set_rates(self, share: float) -> dict[str, float]:
        """Set every group's learning rate to a share of its peak; returns them."""
        rates = {group: peak * share for group, peak in self._peaks.items()}
        for settings, rate in zip(self._inner.param_groups, rates.values(), strict=True):
            settings["lr"] = rate
        return rates

    def step(self) -> None:
        self._inner.step()
        for tensor in self._padding:
            tensor.zero_()

    def step_alone(self, group: str, parameter: nn.Parameter) -> None:
        """Update one parameter of a group and look at no other."""
        every = self._inner.param_groups
        settings = every[list(self._peaks).index(group)]
        self._inner.param_groups = [settings | {"params": [parameter]}]
        try:
            self._inner.step()
        finally:
            self._inner.param_groups = every

    def state(self) -> dict[str, torch.Tensor]:
        """Everything kept between steps as "name/state" -> tensor; a whole number is int64, another float64.

        The quantisation maps of 8-bit states are among it: a state means nothing under another map.
        """
        return {
            f"{name}/{key}": value.clone() if key.startswith("qmap") else _as_tensor(value)
            for name, parameter in self._updated.items()
            for key, value in self._inner.state.get(parameter, {}).items()
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what ``state`` gave; tensors that are there already are written into, not replaced."""
        owners = {name.rpartition("/")[0] for name in tensors}
        # By then every tensor has its state, Adafactor's too: each is updated at each step.
        if owners and owners != self._updated.keys():
            tensors = _cut_anew(tensors, self._updated)
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
    groups = {group: _cut(parameters, group, settings) for group in parameters.groups}
    # A moment that is zero is not quite zero in 8 bits beside a large one: the padding would wander.
    padding = parameters.padding() if settings.kind in BITSANDBYTES_KINDS else []
    return Optimizer(make_inner(groups, settings, peaks), groups, peaks, padding)


def make_inner(groups: Groups, settings: OptimizerSettings, peaks: Mapping[str, float]) -> torch.optim.Optimizer:
    """A library's optimiser over these tensors, with its state there from the start where the library lets it be."""
    listed: list[dict[str, Any]] = [
        {"params": list(named.values()), "lr": peaks[group]} for group, named in groups.items()
    ]
    if settings.kind == "adamw":
        return _adamw(listed, settings)
    if settings.kind == "adafactor":
        # The rate is the schedule's alone: the paper's own relative steps have no use for one.
        return Adafactor(listed, weight_decay=settings.weight_decay, scale_parameter=False, relative_step=False)
    return _eight_bit(listed, settings)


def as_matrix(shape: Sequence[int]) -> tuple[int, ...]:
    """How Adafactor sees a parameter: a kernel as the matrix [out, in x k x k], whose rows and columns are few."""
    return (shape[0], -1) if len(shape) > 2 else tuple(shape)


def _cut(parameters: FlatParameters, group: str, settings: OptimizerSettings) -> dict[str, nn.Parameter]:
    """A group in the pieces its optimiser wants: whole, in blocks of bounded size, or matrix by matrix."""
    if settings.kind in BITSANDBYTES_KINDS:
        return parameters.pieces(group, PIECE_ELEMENTS)
    if settings.kind == "adafactor":
        return parameters.views(group, as_matrix)
    return {group: parameters.groups[group]}


def _adamw(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), one fused kernel."""
    assert settings.betas is not None
    assert settings.epsilon is not None
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


def _eight_bit(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Dettmers et al. 2022 (arXiv:2110.02861): states in 8 bits, a scale for every 256 elements."""
    optim = bitsandbytes("optim")
    shared = {"betas": settings.betas, "weight_decay": settings.weight_decay, "min_8bit_size": 0}
    if settings.kind == "lion8bit":
        inner = optim.Lion8bit(groups, **shared)
    else:
        kind = optim.PagedAdamW8bit if settings.kind == "paged-adamw8bit" else optim.AdamW8bit
        inner = kind(groups, eps=settings.epsilon, **shared)
    with warnings.catch_warnings():
        # On a CPU there is nothing to page out to, which docs/recipes.md says.
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        for number, group in enumerate(inner.param_groups):
            for place, parameter in enumerate(group["params"]):
                inner.init_state(group, parameter, number, place)
    made: torch.optim.Optimizer = inner
    return made


def _cut_anew(tensors: Mapping[str, torch.Tensor], updated: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """The 8-bit state of other pieces, as another version cut a group, as that of these: no block is divided."""
    found: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        group, _, number = owner.rpartition(".")
        found.setdefault((group, key), {})[int(number)] = tensor
    cut: dict[str, torch.Tensor] = {}
    for (group, key), numbered in found.items():
        names = [name for name in updated if name.rpartition(".")[0] == group]
        parts = [numbered[number] for number in sorted(numbered)]
        if parts[0].ndim == 0 or key.startswith("qmap"):
            cut |= {f"{name}/{key}": parts[0] for name in names}
            continue
        whole = torch.cat(parts)
        # Of a state one for each element, of its scales one a block.
        elements_each = sum(updated[name].numel() for name in names) // len(whole)
        sizes = [updated[name].numel() // elements_each for name in names]
        cut |= {f"{name}/{key}": part for name, part in zip(names, whole.split(sizes), strict=True)}
    return cut


def _as_tensor(value: torch.Tensor | float) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
