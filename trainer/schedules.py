"""The shape of the learning rate over a run: a share of its peak for each optimiser step.

A function of the step alone, so it is the same for any number of processes and micro-batches, and a resume needs
no state of it. Knows nothing about optimisers.
"""

from __future__ import annotations

import math

from contracts.train import OptimizerSettings


def peak_share(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The share of optimiser step ``step`` (from 1 to ``steps``): warm-up, then the schedule's shape down to zero."""
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    done = (step - 1 - settings.warmup_steps) / (steps - settings.warmup_steps)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done))
