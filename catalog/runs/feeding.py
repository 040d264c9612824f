"""The dataset versions that feed a run: found, checked against each other, and summed up for the plan.

Knows nothing about bases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from catalog.datasets import repository
from catalog.datasets import service as datasets
from catalog.datasets.models import DatasetVersion
from contracts.dataset import DatasetSummary
from contracts.failures import FailureCode, PatinaError
from contracts.mixing import Mixture, Share, Source, mix, mixture_digest
from contracts.run import DatasetChoice, RunRequest
from contracts.subject import set_apart, summarise_run
from contracts.train import TrainConfig


class Fed(NamedTuple):
    """A version that feeds a run."""

    version: DatasetVersion
    dataset_name: str
    weight: float

    @property
    def described(self) -> dict[str, Any]:
        """As the run keeps it, whatever becomes of the dataset."""
        return {
            "id": self.version.dataset_id,
            "name": self.dataset_name,
            "version": self.version.number,
            "digest": self.version.digest,
            "weight": self.weight,
        }


class Problem(NamedTuple):
    """What is wrong with a request, and where in it."""

    pointer: str
    error: PatinaError


def choose(session: Session, owner: str, request: RunRequest) -> tuple[list[Fed], list[Problem]]:
    """The versions a request names, and everything that is wrong with them."""
    fed: list[Fed] = []
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for number, choice in enumerate(request.choices):
        pointer = "/dataset" if request.dataset is not None else f"/datasets/{number}"
        try:
            found = _find(session, owner, choice)
        except PatinaError as error:
            problems.append(Problem(pointer, error))
            continue
        first = places.setdefault(found.version.digest, pointer)
        if first != pointer:
            message = f"has the same content as {first}; name one of them, with the sum of the weights"
            problems.append(Problem(pointer, PatinaError(FailureCode.CONFLICT, message)))
        fed.append(found)
    return fed, problems


def hold(session: Session, owner: str, versions: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep versions from being withdrawn or removed until the transaction ends.

    Args:
        versions: how a run describes each, by its id.

    Raises:
        PatinaError: CONFLICT: one of them has been.
    """
    there = repository.hold_versions(session, owner, list(versions))
    for version_id, one in versions.items():
        if version_id not in there:
            message = f"Version {one['version']} of '{one['name']}' has been removed."
            raise PatinaError(FailureCode.CONFLICT, message)


def summarise(session: Session, owner: str, fed: Sequence[Fed], config: TrainConfig) -> DatasetSummary:
    """What planning needs to know of all of them together, class pictures apart.

    Raises:
        InvalidInput: no image has a concept that is named, or all have that of class pictures.
        PatinaError: EMPTY_DATASET: what one trains on, others hold out.
    """
    weights, prior = config.data.concept_weights, config.prior
    row_by_row = weights or config.data.captions.vary or (prior is not None and prior.concept is not None)
    if len(fed) == 1 and fed[0].weight == 1 and not row_by_row:
        return datasets.summary_of(fed[0].version)
    mixture = _mixture(session, owner, fed, weights)
    if not mixture.train:
        message = "Every image one of the datasets trains on is held out by another; none is left to train on."
        raise PatinaError(FailureCode.EMPTY_DATASET, message, "Leave one out, or hold out the same images in each.")
    return summarise_run(*set_apart(mixture, prior), config)


def digest_of(fed: Sequence[Fed]) -> str:
    """What names the content of all of them together."""
    return mixture_digest(Share(digest=one.version.digest, weight=one.weight) for one in fed)


def _find(session: Session, owner: str, choice: DatasetChoice) -> Fed:
    dataset = datasets.read(session, owner, choice.dataset)
    return Fed(datasets.read_version(session, owner, dataset.id, choice.version), dataset.name, choice.weight)


def _mixture(session: Session, owner: str, fed: Sequence[Fed], concept_weights: Mapping[str, float]) -> Mixture:
    sources = (
        Source(
            [entry.row for entry in datasets.version_contents(session, owner, one.version.id)],
            Share(digest=one.version.digest, weight=one.weight),
        )
        for one in fed
    )
    return mix(sources, concept_weights)
