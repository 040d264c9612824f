"""The loss on pictures that are never trained on, with noise and timesteps that never change.

It depends on the data set and the weights alone, not on the run's seed, loss weighting or number of processes, so
it can be compared between steps and between runs. Here too is what follows from the curve of these losses: which step
was best and whether anything is gained any more. Knows nothing about when it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from contracts.dataset import VersionRow
from sdxl.conditioning import join
from trainer.draws import keyed_generator
from trainer.feed import Feed, Inputs, sizes_of
from trainer.objective import Objective
from trainer.processes import Processes

Curve = tuple[tuple[int, float], ...]
"""(step, loss) of each measurement, in the order of the steps; step 0 is the base before training."""


@torch.no_grad()
def held_out_loss(
    rows: Sequence[VersionRow],
    timesteps: int,
    feed: Feed,
    objective: Objective,
    processes: Processes,
    stop_wanted: Callable[[], bool],
) -> float | None:
    """Mean squared error over all rows and ``timesteps`` evenly spread noise levels, each row one batch.

    None, on all ranks alike, when any of them broke it off because ``stop_wanted``.
    """
    losses = torch.zeros(len(rows) + 1, dtype=torch.float64, device=processes.device)
    for index in range(processes.rank, len(rows), processes.count):
        if stop_wanted():
            losses[-1] = 1
            break
        losses[index] = objective.errors(_inputs(rows[index], timesteps, feed)).double().mean()
    # Each rank fills its own rows: the sum puts them together, and the mean is the same on any number of ranks.
    *found, broken_off = processes.sum_(losses).split([len(rows), 1])
    return None if broken_off.item() else float(found[0].mean())


def best(curve: Curve) -> tuple[int, float] | None:
    """The step after 0 with the lowest loss, the earlier of two alike, and that loss."""
    return min(((step, loss) for step, loss in curve if step), key=lambda point: point[1], default=None)


def gains_nothing(curve: Curve, stop_after: int | None, min_gain: float) -> bool:
    """Whether the last ``stop_after`` measurements after step 0 have all failed to gain.

    A gain is a loss below the lowest gain before it by the share ``min_gain`` at least.
    """
    if stop_after is None:
        return False
    lowest, without = None, 0
    for step, loss in curve:
        if not step:
            continue
        if lowest is None or loss < lowest * (1 - min_gain):
            lowest, without = loss, 0
        else:
            without += 1
    return without >= stop_after


def _inputs(row: VersionRow, timesteps: int, feed: Feed) -> Inputs:
    view = feed.views.of(row)
    mean = feed.latents(view)[0]
    noise = [torch.randn(mean.shape, generator=keyed_generator("held-out", row.image, k)) for k in range(timesteps)]
    levels = [int((k + 0.5) / timesteps * feed.schedule_steps) for k in range(timesteps)]
    conditioning = feed.texts(feed.captions.fixed(row.caption))
    return Inputs(
        latents=(mean * feed.scaling_factor).expand(timesteps, *mean.shape).to(feed.device),
        noise=torch.stack(noise).to(feed.device),
        timesteps=torch.tensor(levels, device=feed.device),
        conditioning=join([conditioning] * timesteps).to(device=feed.device),
        time_ids=sizes_of(row, view).expand(timesteps, -1).to(feed.device),
    )
