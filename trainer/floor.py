"""What a run's steps cost beside their floor: forward and backward to the input of the bare UNet, frozen.

No way of training adapters on this UNet can be faster than that on the same machine, at the same size, batch and
type. Measured when the training is over, on inputs of the run itself; draws nothing and changes no weight. Knows
nothing about data or optimisers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from contracts.buckets import Bucket, GlobalBatch, micro_batches
from contracts.events import Paced
from sdxl.lora_layer import TRAINING
from trainer.feed import Feed, Inputs
from trainer.processes import Processes
from trainer.weights import Trainable

REPEATS = 3
ENOUGH_S = 0.5
"""Small networks are measured more often than REPEATS, until this much time has gone."""
MOST_SHARE = 0.1
"""Of the time that the steps took: what measuring may take, beyond one pass. A short run is not made a long one."""

Slices = list[tuple[int, ...]]
"""The samples of each forward pass of this rank's share of a step; an empty slice runs a stand-in of weight zero."""


@dataclass
class _Alike:
    """Steps of one shape: the bucket, and how many samples each forward pass had."""

    step: int
    """One of them, as an example."""
    slices: Slices
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """The first of several, which warms up, does not count."""
        return statistics.median(self.seconds[1:] or self.seconds)


class Paces:
    """How long each step took, by its shape."""

    def __init__(self, processes: Processes, accumulation: int) -> None:
        self._processes, self._accumulation = processes, accumulation
        self._by_shape: dict[tuple[tuple[Bucket, int], ...], _Alike] = {}

    def add(self, step: int, batches: Sequence[GlobalBatch], seconds: float) -> None:
        """``batches`` is what the step ran: its batch, and class pictures where there are any."""
        slices: Slices = []
        shape = []
        for batch in batches:
            for indices in micro_batches(
                batch.samples, self._processes.count, self._processes.rank, self._accumulation
            ):
                slices.append(indices or batch.samples[:1])
                shape.append((batch.bucket, len(slices[-1])))
        self._by_shape.setdefault(tuple(shape), _Alike(step, slices)).seconds.append(seconds)

    def seconds(self) -> float:
        """Of all steps together."""
        return sum(sum(alike.seconds) for alike in self._by_shape.values())

    def usual(self) -> _Alike | None:
        """The steps of the shape that most had; None before any step."""
        return max(self._by_shape.values(), key=lambda alike: len(alike.seconds), default=None)


def pace(paces: Paces, model: Trainable, feed: Feed, step: int) -> Paced | None:
    """Measure the floor of the usual step and compare; None where no step was taken.

    Every rank has to call it, so that they share the machine as they do in a step.
    """
    usual = paces.usual()
    if usual is None:
        return None
    inputs = [feed(usual.step, indices) for indices in usual.slices]
    floor_s = floor_seconds(model, inputs, MOST_SHARE * paces.seconds())
    return Paced(at=time.time(), step=step, step_s=usual.median_s, floor_s=floor_s, ratio=usual.median_s / floor_s)


def floor_seconds(model: Trainable, inputs: list[Inputs], most_s: float) -> float:
    """The floor of a step with these forward passes: the median over a few times, no more begun after ``most_s``."""
    taken: list[float] = []
    spent = 0.0
    with bare(model):
        while not taken or (spent < most_s and (len(taken) < REPEATS or spent < ENOUGH_S)):
            taken.append(sum(bare_pass(model, one) for one in inputs))
            spent += taken[-1]
    return statistics.median(taken)


@contextmanager
def bare(model: Trainable) -> Iterator[None]:
    """The frozen UNet without adapters; their choice, and what is trainable, are as before afterwards."""
    trained = [parameter for parameter in model.base.unet.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        if model.bank is not None:
            model.bank.select([{}])
        yield
    finally:
        if model.bank is not None:
            model.bank.select([{TRAINING: 1.0}])
        for parameter in trained:
            parameter.requires_grad_(True)


def bare_pass(model: Trainable, inputs: Inputs) -> float:
    """Seconds of one forward, and backward to the input, of a model that is ``bare``."""
    unet, dtype, device = model.base.unet, model.base.dtype, model.base.device
    noisy = (inputs.latents + inputs.noise).to(dtype).requires_grad_()
    added = {"text_embeds": inputs.conditioning.pooled.detach().to(dtype), "time_ids": inputs.time_ids}
    text = inputs.conditioning.text.detach().to(dtype)
    _synchronize(device)
    began = time.perf_counter()
    with model.compute():
        predicted = unet(noisy, inputs.timesteps, text, added_cond_kwargs=added, return_dict=False)[0]
    predicted.float().square().mean().backward()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
