"""What to change so that a run fits the memory there is: the least of a ladder of changes, gentlest first.

Knows nothing about devices: what their drivers and kernels take beside tensors is one stated allowance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from contracts.config import Frozen
from contracts.plan import Plan
from contracts.train import TrainConfig, parse_config

GIB = 2**30
ALLOWANCE_BYTES = GIB
"""Left to what is not a tensor: a driver's context, kernels' work space, gaps between tensors. A guess, unproven."""
LOWEST_RANK = 4
LOWEST_SIDE = 512
"""The side below which SDXL itself stops making pictures; smaller bases are not shrunk."""

_SIZES = {"MB": 2**20, "MIB": 2**20, "GB": GIB, "GIB": GIB, "TB": 2**40, "TIB": 2**40}


class Change(Frozen):
    """One change, and what the run takes with it and those before it."""

    overrides: dict[str, Any]
    why: str
    memory_total: int


class Fitting(Frozen):
    """How a run is made to fit."""

    changes: tuple[Change, ...]
    fits: bool
    """False: with all of the changes it still takes more."""

    @property
    def overrides(self) -> dict[str, Any]:
        """All changes together, as dotted settings."""
        return {key: value for change in self.changes for key, value in change.overrides.items()}

    def applied(self, config: TrainConfig) -> TrainConfig:
        """``config`` with all changes."""
        return parse_config(config.model_dump(mode="json"), self.overrides)


def parse_bytes(text: str) -> int:
    """``8GB`` as bytes; GB as it is meant of graphics cards, 2^30 of them.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in _SIZES:
        raise ValueError(f"{text!r} is no amount of memory such as 8GB or 12.5GiB")
    return int(float(found[1]) * _SIZES[found[2].upper()])


def fits(plan: Plan, memory_bytes: int) -> bool:
    """Whether a run's tensors leave the allowance free."""
    return plan.memory_total + ALLOWANCE_BYTES <= memory_bytes


def fit(config: TrainConfig, memory_bytes: int, planned: Callable[[TrainConfig], Plan], side_px: int) -> Fitting:
    """Climb the ladder until the run fits, then take back every rung that was not needed.

    Args:
        planned: the plan of a config.
        side_px: resolution that the config trains at.
    """
    taken: list[tuple[dict[str, Any], str]] = []
    current = config
    for overrides, why in _ladder(config, side_px):
        if fits(planned(current), memory_bytes):
            break
        changed = _changed(config, [*taken, (overrides, why)])
        if planned(changed).memory_total < planned(current).memory_total:
            taken.append((overrides, why))
            current = changed
    reached = fits(planned(current), memory_bytes)
    if reached:
        for rung in list(taken):
            without = [other for other in taken if other is not rung]
            if fits(planned(_changed(config, without)), memory_bytes):
                taken = without
    changes = [
        Change(overrides=overrides, why=why, memory_total=planned(_changed(config, taken[: number + 1])).memory_total)
        for number, (overrides, why) in enumerate(taken)
    ]
    return Fitting(changes=tuple(changes), fits=reached)


def _changed(config: TrainConfig, rungs: list[tuple[dict[str, Any], str]]) -> TrainConfig:
    overrides = {key: value for changes, _ in rungs for key, value in changes.items()}
    return parse_config(config.model_dump(mode="json"), overrides)


def _ladder(config: TrainConfig, side_px: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes from those that leave the result as it is to those that train something smaller."""
    batch, accumulation = config.batch_size, config.gradient_accumulation_steps
    while batch > 1 and batch % 2 == 0:
        batch, accumulation = batch // 2, accumulation * 2
        if config.full.adds_gradients:
            changes = {"batch_size": batch, "gradient_accumulation_steps": accumulation}
            yield changes, "the same result in more, smaller passes"
        else:
            yield {"batch_size": batch}, "fewer pictures in a step, as gradients cannot be added up here"
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, "the same result, about a third slower"
    if config.held_out.timesteps > 1:
        yield {"held_out.timesteps": 1}, "a coarser held-out loss"
    if config.optimizer.kind == "adamw":
        yield {"optimizer.kind": "adamw8bit"}, "the optimiser's state in a quarter"
    if config.preview.prompts:
        yield {"preview.prompts": []}, "no previews, which need the VAE beside the model"
    rank = config.lora.rank if config.method == "lora" else 0
    while rank // 2 >= LOWEST_RANK:
        rank //= 2
        alpha = config.lora.alpha * rank / config.lora.rank
        yield {"lora.rank": rank, "lora.alpha": alpha}, "adapters of less capacity"
    side = side_px
    while side - 128 >= LOWEST_SIDE:
        side -= 128
        yield {"data.resolution_px": side}, "smaller pictures"
