"""What to change so that a run fits the memory there is: the least of a ladder of changes, gentlest first.

Knows nothing about devices: what their drivers and kernels take beside tensors is one stated allowance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from contracts.config import Frozen
from contracts.failures import FailureCode, PatinaError
from contracts.sizes import GIB, size
from contracts.train import MOST_ACCUMULATED, TrainConfig, parse_config

ALLOWANCE_BYTES = GIB
"""Left to what is not a tensor: a driver's context, kernels' work space, gaps between tensors. A guess, unproven."""
LOWEST_RANK = 4
LOWEST_SIDE = 512
"""The side below which SDXL itself stops making pictures; smaller bases are not shrunk."""


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


def fits(taken_bytes: int, memory_bytes: int) -> bool:
    """Whether a run whose tensors take so much leaves the allowance free."""
    return taken_bytes + ALLOWANCE_BYTES <= memory_bytes


def fit(config: TrainConfig, memory_bytes: int, taken: Callable[[TrainConfig], int], side_px: int) -> Fitting:
    """Climb the ladder until the run fits, then take back every rung that was not needed, the harshest first.

    A setting's later rung takes the place of its earlier ones, so that without it the setting is as these say.

    Args:
        taken: bytes that the tensors of a config's run take.
        side_px: resolution that the config trains at.
    """
    rungs: list[tuple[dict[str, Any], str]] = []
    reached = taken(config)
    for overrides, why in _ladder(config, side_px):
        if fits(reached, memory_bytes):
            break
        # One that changes nothing yet may once another part is no longer the peak.
        with_it = taken(_changed(config, [*rungs, (overrides, why)]))
        if with_it <= reached:
            rungs.append((overrides, why))
            reached = with_it
    enough = max(reached, memory_bytes - ALLOWANCE_BYTES)
    for rung in reversed(list(rungs)):
        without = [other for other in rungs if other is not rung]
        if taken(_changed(config, without)) <= enough:
            rungs = without
    changes = [
        Change(overrides=overrides, why=why, memory_total=taken(_changed(config, rungs[: number + 1])))
        for number, (overrides, why) in enumerate(rungs)
    ]
    return Fitting(changes=tuple(changes), fits=fits(reached, memory_bytes))


def does_not_fit(taken_bytes: int, memory_bytes: int, fitting: Fitting) -> PatinaError:
    """OUT_OF_MEMORY, with the changes that make the run fit in its hint."""
    changes = [
        f"{' '.join(f'{key}={word(value)}' for key, value in change.overrides.items())} ({change.why}: "
        f"{size(change.memory_total)})"
        for change in fitting.changes
    ]
    told = "; ".join(changes) or "nothing that is known"
    return PatinaError(
        FailureCode.OUT_OF_MEMORY,
        f"The run's tensors take {size(taken_bytes)}, and {size(ALLOWANCE_BYTES)} is kept free beside them: more than "
        f"the {size(memory_bytes)} there are.",
        f"It fits with {told}." if fitting.fits else f"It would not fit even with {told}.",
    )


def word(value: object) -> str:
    """A setting's value as it is written on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def _changed(config: TrainConfig, rungs: list[tuple[dict[str, Any], str]]) -> TrainConfig:
    overrides = {key: value for changes, _ in rungs for key, value in changes.items()}
    return parse_config(config.model_dump(mode="json"), overrides)


def _ladder(config: TrainConfig, side_px: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes from those that leave the result as it is to those that train something smaller."""
    batch, accumulation = config.batch_size, config.gradient_accumulation_steps
    while batch > 1 and batch % 2 == 0:
        batch, accumulation = batch // 2, accumulation * 2
        if config.full.adds_gradients:
            if accumulation > MOST_ACCUMULATED:
                break
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
    if config.method == "lora":
        # Dettmers et al. 2022 (arXiv:2208.07339) and 2023 (arXiv:2305.14314): what is lost in 8 bits is hardly seen.
        if config.quantize is None:
            yield {"quantize": "int8"}, "the frozen transformers in 8 bits"
        if config.quantize != "nf4":
            yield {"quantize": "nf4"}, "the frozen transformers in 4 bits"
    rank = config.lora.rank if config.method == "lora" else 0
    while rank // 2 >= LOWEST_RANK:
        rank //= 2
        alpha = config.lora.alpha * rank / config.lora.rank
        yield {"lora.rank": rank, "lora.alpha": alpha}, "adapters of less capacity"
    side = side_px
    while side - 128 >= LOWEST_SIDE:
        side -= 128
        yield {"data.resolution_px": side}, "smaller pictures"
