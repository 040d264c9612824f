"""The data of a run: one or several data sets, each with a weight, put together by contracts/mixing.py.

Knows nothing about files, tensors or models: data.py reads each data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from contracts.failures import FailureCode, PatinaError
from contracts.mixing import Mixture, Share, Source, mix
from trainer.data import Dataset, read_dataset
from trainer.images import IdentityMemory
from trainer.recipe import DataSource
from trainer.refusals import Refusals


@dataclass(frozen=True)
class RunData:
    """What a run trains on and measures, and how to get the picture of each row."""

    mixture: Mixture
    read: Callable[[str], bytes]
    """The picture file of an image identity, from the first data set that has it."""
    read_mask: Callable[[str], bytes]
    """The mask file of a mask's identity."""


def read_run_data(
    sources: Sequence[DataSource], memory: IdentityMemory, concept_weights: Mapping[str, float] | None = None
) -> RunData:
    """Read every data set of a run.

    Raises:
        InvalidInput: no picture has a concept that has a weight.
        PatinaError: DATASET_UNREADABLE naming every problem, or EMPTY_DATASET.
    """
    read, refused = list[tuple[Dataset, float]](), Refusals()
    for source in sources:
        with refused.asking():
            read.append((read_dataset(source.path, memory), source.weight))
    refused.say()
    reads: dict[str, Callable[[str], bytes]] = {}
    masks: dict[str, Callable[[str], bytes]] = {}
    for dataset, _ in read:
        for row in dataset.rows:
            reads.setdefault(row.image, dataset.read)
            if row.mask is not None:
                masks.setdefault(row.mask, dataset.read_mask)
    shared = (Source(dataset.rows, Share(digest=dataset.digest, weight=weight)) for dataset, weight in read)
    mixture = mix(shared, concept_weights)
    if not mixture.train:
        raise PatinaError(
            FailureCode.EMPTY_DATASET,
            "Every picture of one data set is held out by another; none is left to train on.",
            "Leave one of them out, or hold out the same pictures in both.",
        )
    return RunData(mixture, lambda image: reads[image](image), lambda mask: masks[mask](mask))
