"""The optimiser steps: which samples, their gradients summed over micro-batches and ranks, the update, the record.

Knows nothing about files or models' insides: what is due after a step is done by the actions it is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from contracts import events
from contracts.buckets import GlobalBatch, Schedule, micro_batches
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Control
from contracts.train import TrainConfig
from trainer.control import REQUESTS, Requests
from trainer.draws import keyed_seed
from trainer.environment import peak_memory
from trainer.feed import Feed
from trainer.flat import norm as norm_of
from trainer.held_out import Curve
from trainer.loss_scale import NO_SCALE, LossScale
from trainer.objective import Objective
from trainer.prior import Prior
from trainer.processes import Processes
from trainer.report import Report
from trainer.schedules import peak_share
from trainer.update import Update

SMOOTHING = 0.02
"""Weight of a new step in the smoothed loss; until there are as many steps as that says, it is their plain mean."""
NAMED = 16
"""Pictures of a batch named in one message."""
SUMMARY_SHARE = 0.1
"""The first and the last share of the steps whose mean losses sum up a run."""


@dataclass
class Record:
    """What the loop knows besides tensors; saved and restored by name."""

    step: int = 0
    train_seconds: float = 0.0
    loss_smooth: float = 0.0
    loss_first_sum: float = 0.0
    loss_last_sum: float = 0.0
    loss_first_steps: int = 0
    loss_last_steps: int = 0
    held_out: Curve = ()
    loss_scale: float = LossScale().factor
    """Of fp16 alone."""
    clean_steps: int = 0
    skipped_steps: int = 0

    def add(self, loss: float, seconds: float, steps: int) -> None:
        self.step += 1
        self.train_seconds += seconds
        weight = max(SMOOTHING, 1 / self.step)
        self.loss_smooth = (1 - weight) * self.loss_smooth + weight * loss
        if self.step <= summary_steps(steps):
            self.loss_first_sum += loss
            self.loss_first_steps += 1
        if self.step > steps - summary_steps(steps):
            self.loss_last_sum += loss
            self.loss_last_steps += 1


Verdict = Literal["best", "go on", "enough", "broken off"]
"""Of a measurement: the lowest loss so far; not that; nothing is gained any more; a stop was asked for meanwhile."""
Ended = Literal["completed", "gained nothing", "stopped"]


@dataclass(frozen=True)
class Actions:
    """What can be due after a step."""

    save: Callable[[], None]
    """A checkpoint the run can go on without."""
    save_to_stop: Callable[[], None]
    """One it is no good to leave without."""
    preview: Callable[[], None]
    measure: Callable[[], Verdict]
    timed: Callable[[int, Sequence[GlobalBatch], float], None]
    """Told which step took how many seconds, before what is due after it."""


def summary_steps(steps: int) -> int:
    """How many steps the first and the last tenth of a run have."""
    return max(1, math.ceil(steps * SUMMARY_SHARE))


def train_steps(
    config: TrainConfig,
    schedule: Schedule,
    prior: Prior | None,
    feed: Feed,
    objective: Objective,
    update: Update,
    record: Record,
    processes: Processes,
    requests: Requests,
    report: Report,
    actions: Actions,
) -> Ended:
    """Go on from ``record.step`` to the last step, until nothing is gained, or until all ranks agree to stop.

    Raises:
        PatinaError: NAN_LOSS; nothing is saved of a step that spoiled the weights.
    """
    trained = objective.model.parameters
    for batch, beside in _with_prior(batches(schedule, record.step, config.steps), prior, record.step, config.steps):
        began = time.perf_counter()
        step = record.step + 1
        ran = [batch] if beside is None else [batch, beside]
        scale = LossScale(record.loss_scale, record.clean_steps) if config.precision == "fp16" else NO_SCALE
        rates = update.begin(step, peak_share(step, config.steps, config.optimizer))
        total = _backward(step, batch, beside, config, feed, objective, processes, scale.factor)
        norm = update.finish(scale.factor)
        asked_here = torch.tensor(requests.pending(), dtype=torch.float64, device=processes.device)
        loss, *asked = processes.sum_(torch.cat([total[None], asked_here])).tolist()
        overflowed = not math.isfinite(norm)
        if not math.isfinite(loss) or (overflowed and scale.exhausted):
            raise _not_finite(step, loss, [sample for one in ran for sample in one.samples], feed)
        if not overflowed:
            update.apply()
            if objective.model.average is not None:
                objective.model.average.update(step)
        if config.precision == "fp16":
            record.loss_scale, record.clean_steps = scale.after(overflowed=overflowed)
            record.skipped_steps += overflowed
        seconds = time.perf_counter() - began
        record.add(loss, seconds, config.steps)
        report(
            events.StepDone(
                at=time.time(),
                step=step,
                loss=loss,
                loss_smooth=record.loss_smooth,
                learning_rate=next(iter(rates.values())),
                learning_rates=rates,
                grad_norm=0.0 if overflowed else norm,
                skipped=overflowed,
                loss_scale=scale.factor if config.precision == "fp16" else None,
                adapter_norm=norm_of(trained.vector.data),
                images_per_s=sum(len(one.samples) for one in ran) / seconds,
                memory_bytes=peak_memory(processes.device),
            )
        )
        actions.timed(step, ran, seconds)
        wanted = {name for name, count in zip(REQUESTS, asked, strict=True) if count}
        if (ended := _after(step, config, wanted, requests, actions)) is not None:
            return ended
    return "completed"


def batches(schedule: Schedule, done: int, steps: int) -> Iterator[GlobalBatch]:
    """The global batches of steps ``done`` + 1 to ``steps``, epoch after epoch."""
    epoch, begun = schedule.locate(done)
    while done < steps:
        for batch in schedule.epoch(epoch)[begun:][: steps - done]:
            yield batch
            done += 1
        epoch, begun = epoch + 1, 0


def _with_prior(
    wanted: Iterator[GlobalBatch], prior: Prior | None, done: int, steps: int
) -> Iterator[tuple[GlobalBatch, GlobalBatch | None]]:
    """Each step's batch, and the class pictures that go beside it."""
    if prior is None:
        yield from ((batch, None) for batch in wanted)
    else:
        yield from zip(wanted, map(prior.placed, batches(prior.schedule, done, steps)), strict=True)


def _backward(
    step: int,
    batch: GlobalBatch,
    beside: GlobalBatch | None,
    config: TrainConfig,
    feed: Feed,
    objective: Objective,
    processes: Processes,
    scale: float,
) -> torch.Tensor:
    """Add up this rank's share of the gradient of the mean loss times ``scale``; returns its share of the mean loss.

    With class pictures it is the mean loss of the batch plus the prior's weight times theirs, each slice of the
    batch beside one of theirs. The two are summed before they join those of other slices, as they are on another
    rank: so two ranks and two accumulated slices add the same numbers in the same order.
    """
    gradient = objective.model.parameters.gradient
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    cut = (processes.count, processes.rank, config.gradient_accumulation_steps)
    if beside is None or config.prior is None:
        for indices in micro_batches(batch.samples, *cut):
            total += _slice_backward(step, batch, indices, 1.0, config, feed, objective, scale)
        return total
    before = None
    for indices, others in zip(micro_batches(batch.samples, *cut), micro_batches(beside.samples, *cut), strict=True):
        both = _slice_backward(step, batch, indices, 1.0, config, feed, objective, scale)
        total += both + _slice_backward(step, beside, others, config.prior.weight, config, feed, objective, scale)
        if gradient is not None and config.gradient_accumulation_steps > 1:
            before = gradient.clone() if before is None else before.add_(gradient)
            gradient.zero_()
    if gradient is not None and before is not None:
        gradient.copy_(before)
    return total


def _slice_backward(
    step: int,
    batch: GlobalBatch,
    indices: tuple[int, ...],
    weight: float,
    config: TrainConfig,
    feed: Feed,
    objective: Objective,
    scale: float,
) -> torch.Tensor:
    """Add one slice's gradient, times ``scale``; returns its share of the batch's mean loss, weighted.

    A slice's sum is divided by the global count, so slices of different sizes weigh each sample alike. An empty
    slice runs the batch's first sample with weight zero, so that all ranks do the same work.
    """
    bank, run = objective.model.bank, indices or batch.samples[:1]
    if bank is not None and config.lora.dropout:
        bank.dropout_keys([keyed_seed("dropout", config.seed, step, i) for i in run])
    loss = objective.losses(feed(step, run)).sum() / len(batch.samples)
    loss = loss * (weight if indices else 0.0)
    (loss * scale).backward()
    if bank is not None:
        bank.dropout_keys(None)
    return loss.detach().double()


def _not_finite(step: int, loss: float, samples: Sequence[int], feed: Feed) -> PatinaError:
    names = list(dict.fromkeys(feed.samples[sample].source_name for sample in samples))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    what = "gradient" if math.isfinite(loss) else "loss"
    return PatinaError(
        FailureCode.NAN_LOSS,
        f"The {what} of step {step} is not a finite number. In its batch: {', '.join(names[:NAMED])}{more}. "
        "Nothing is saved of that step; the last checkpoint is kept.",
    )


def _after(step: int, config: TrainConfig, wanted: set[Control], requests: Requests, actions: Actions) -> Ended | None:
    """Do what is due or was asked for; returns how the run ends, if it does here.

    Of the last step only the checkpoint is made here. A stop leaves due measurements and previews to the next
    attempt, which begins with them: whoever asked waits for a step and a save alone.
    """
    last = step == config.steps
    ended: Ended | None = "stopped" if "stop" in wanted and not last else None
    verdict: Verdict = "go on"
    if due(step, config.held_out.every_steps) and not (last or ended):
        verdict = actions.measure()
        if verdict in ("enough", "broken off"):
            ended = "gained nothing" if verdict == "enough" else "stopped"
    if ended == "stopped":
        actions.save_to_stop()
        requests.done("stop")
    elif due(step, config.checkpoint.every_steps) or last or ended or "save" in wanted or verdict == "best":
        actions.save()
    # After the checkpoint: sampling takes memory that training does not.
    if (due(step, config.preview.every_steps) or "preview" in wanted) and not (last or ended):
        actions.preview()
    for name in REQUESTS:
        if name in wanted:
            requests.done(name)
    return ended


def due(step: int, every: int | None) -> bool:
    """Whether what is done every so many steps is done after this one."""
    return every is not None and step > 0 and step % every == 0
