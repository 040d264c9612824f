"""The shape of the learning rate over a run: a share of its peak for each optimiser step.

A function of the step alone, so it is the same for any number of processes and micro-batches, and a resume needs
no state of it. Knows nothing about optimisers.
"""

from __future__ import annotations

import math

from contracts.optimizers import OptimizerSettings


def peak_share(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The share of optimiser step ``step`` (from 1 to ``steps``): warm-up, then the schedule's shape down to zero."""
    warmup = settings.warmup(steps)
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / (steps - warmup)
    match settings.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - done
        case "polynomial":
            return float((1 - done) ** (settings.power or 1))
        case "cosine-with-restarts":
            return _cosine(done * (settings.cycles or 1) % 1)
        case "cosine":
            return _cosine(done)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
