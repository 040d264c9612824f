"""The loss on pictures that are never trained on, with noise and timesteps that never change.

It depends on the data set and the weights alone, not on the run's seed, loss weighting or number of processes, so
it can be compared between steps and between runs. Knows nothing about when it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from contracts.dataset import VersionRow
from sdxl.conditioning import join
from trainer.draws import keyed_generator
from trainer.feed import Feed, Inputs, sizes_of
from trainer.objective import Objective
from trainer.processes import Processes


@torch.no_grad()
def held_out_loss(
    rows: Sequence[VersionRow], timesteps: int, feed: Feed, objective: Objective, processes: Processes
) -> float:
    """Mean squared error over all rows and ``timesteps`` evenly spread noise levels, each row one batch."""
    losses = torch.zeros(len(rows), dtype=torch.float64, device=processes.device)
    for index in range(processes.rank, len(rows), processes.count):
        losses[index] = objective.errors(_inputs(rows[index], timesteps, feed)).double().mean()
    # Each rank fills its own rows: the sum puts them together, and the mean is the same on any number of ranks.
    return float(processes.sum_(losses).mean())


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
