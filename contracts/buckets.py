"""Aspect-ratio buckets and the schedule of global batches: pure arithmetic, the same for plan, ledger and trainer.

Knows nothing about pixels or tensors. A batch never mixes buckets and no sample is ever dropped: the last
batch of a bucket is short.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from contracts.mixing import Sometimes

SMALL_BASE_PX = 512
"""Bases below this native size use buckets of 8 px steps instead of 64."""


class Bucket(NamedTuple):
    """A size all pictures of a batch share, in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"


class Placement(NamedTuple):
    """How a picture gets into its bucket: resize to cover it, then cut a centred window."""

    bucket: Bucket
    resized_width: int
    resized_height: int
    crop_left: int
    crop_top: int
    upscaling: float
    """Above 1 when the picture is smaller than its bucket."""


def default_step_px(native_px: int) -> int:
    """Bucket granularity for a base of this native size."""
    return 64 if native_px >= SMALL_BASE_PX else 8


def bucket_table(resolution_px: int, step_px: int, max_aspect: float) -> tuple[Bucket, ...]:
    """The largest buckets of at most resolution_px squared pixels whose sides are multiples of step_px.

    Where none is within max_aspect, one square of resolution_px, cut to the 8 px of a latent.
    """
    area = resolution_px * resolution_px
    found = set()
    for width in range(step_px, int(resolution_px * math.sqrt(max_aspect)) + step_px, step_px):
        height = area // width // step_px * step_px
        if height and max(width, height) / min(width, height) <= max_aspect:
            found |= {Bucket(width, height), Bucket(height, width)}
    return tuple(sorted(found)) or (Bucket(resolution_px // 8 * 8, resolution_px // 8 * 8),)


def place(width: int, height: int, table: Sequence[Bucket]) -> Placement:
    """Choose the bucket nearest in aspect (then largest) and say how the picture is resized and cropped."""
    aspect = math.log(width / height)
    bucket = min(table, key=lambda b: (abs(math.log(b.width_px / b.height_px) - aspect), -b.width_px * b.height_px))
    scale = max(bucket.width_px / width, bucket.height_px / height)
    resized_width = max(bucket.width_px, round(width * scale))
    resized_height = max(bucket.height_px, round(height * scale))
    left = (resized_width - bucket.width_px) // 2
    top = (resized_height - bucket.height_px) // 2
    return Placement(bucket, resized_width, resized_height, left, top, scale)


class GlobalBatch(NamedTuple):
    """The samples of one optimiser step over all processes and micro-batches."""

    epoch: int
    bucket: Bucket
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Which samples each optimiser step sees: a pure function of (seed, step, buckets of the samples).

    Args:
        buckets: bucket of each sample; a row with repeats appears that many times.
        global_batch: samples an optimiser step takes: batch size x accumulation x processes.
        seed: the run's seed.
        sometimes: the samples that not every epoch has.
    """

    buckets: tuple[Bucket, ...]
    global_batch: int
    seed: int
    sometimes: Mapping[int, Sometimes] = field(default_factory=dict)

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch a step is in, and its place there; both, as the step, counted from 0."""
        always = self._counts(sample for sample in range(len(self.buckets)) if sample not in self.sometimes)
        if not self.sometimes:
            return divmod(step, self._steps(always))
        epoch = 0
        while step >= (steps := self._steps(always + self._counts(self._now_and_then(epoch)))):
            epoch, step = epoch + 1, step - steps
        return epoch, step

    def epoch(self, epoch: int) -> list[GlobalBatch]:
        """The batches of one epoch: each of its samples once, every batch inside one bucket, in random order."""
        away = self.sometimes.keys() - set(self._now_and_then(epoch))
        by_bucket: dict[Bucket, list[int]] = {}
        for sample, bucket in enumerate(self.buckets):
            if sample not in away:
                by_bucket.setdefault(bucket, []).append(sample)
        batches = []
        for bucket, samples in sorted(by_bucket.items()):
            random.Random(f"{self.seed}/{epoch}/{bucket}").shuffle(samples)
            for start in range(0, len(samples), self.global_batch):
                batches.append(GlobalBatch(epoch, bucket, tuple(samples[start : start + self.global_batch])))
        random.Random(f"{self.seed}/{epoch}/order").shuffle(batches)
        return batches

    def _now_and_then(self, epoch: int) -> Iterator[int]:
        return (sample for sample, one in self.sometimes.items() if one.is_in(epoch))

    def _counts(self, samples: Iterable[int]) -> Counter[Bucket]:
        return Counter(self.buckets[sample] for sample in samples)

    def _steps(self, counts: Counter[Bucket]) -> int:
        return sum(math.ceil(count / self.global_batch) for count in counts.values())


def micro_batches(samples: Sequence[int], processes: int, rank: int, accumulation: int) -> list[tuple[int, ...]]:
    """The slices of a global batch one rank works through, one a micro-step; empty slices where it is short.

    Slice (micro-step m, rank r) is slice m * processes + r of the batch, so two ranks see what one process
    with twice the accumulation sees, in the same grouping.
    """
    slices = processes * accumulation
    size = math.ceil(len(samples) / slices)
    cut = [tuple(samples[start : start + size]) for start in range(0, slices * size, size)]
    return [cut[micro * processes + rank] for micro in range(accumulation)]
