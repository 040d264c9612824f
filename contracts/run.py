"""A run as users ask for it and as they see it: the request, its states, and why it is in one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from contracts.config import Frozen
from contracts.failures import NAME_PATTERN
from contracts.mixing import MOST_VERSIONS, Weight

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def _without_nul(name: str) -> str:
    """No name holds it, and Postgres would fail on it where SQLite finds nothing."""
    if "\0" in name:
        raise ValueError("holds a NUL character")
    return name


IdOrName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_without_nul)]


class RunStatus(StrEnum):
    """Where a run is on its way."""

    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})


class RunReason(StrEnum):
    """Why a run is in its state; a failed run has a failure code beside it."""

    WAITING = "waiting"
    WAITING_FOR_DEVICE = "waiting_for_device"
    WAITING_FOR_STORE = "waiting_for_store"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    WORKING = "working"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"


RUN_REASONS: dict[RunReason, str] = {
    RunReason.WAITING: "Waiting for a worker. If none is running, start one with `patina up`.",
    RunReason.WAITING_FOR_DEVICE: "Every device is busy; the run starts when one is free.",
    RunReason.WAITING_FOR_STORE: "The server's file store does not answer or is full; the run goes on by itself.",
    RunReason.WORKER_LOST: "The worker disappeared; the run starts again from its last checkpoint.",
    RunReason.PREEMPTED: "The worker was stopped in good order; the run goes on from its last checkpoint.",
    RunReason.WORKING: "A worker is on it.",
    RunReason.CANCELLING: "Asked to stop; the worker stops it at the next step.",
    RunReason.CANCELLED: "Cancelled on request.",
    RunReason.COMPLETED: "All steps are done and the weights are registered.",
    RunReason.FAILED: "It failed; the failure says why and what to do.",
}


class DatasetChoice(Frozen):
    """A dataset version that feeds a run."""

    dataset: IdOrName
    """Id or name of the dataset."""

    version: Annotated[int, Field(ge=1)] | None = None
    """Number of its version; null is the latest."""

    weight: Weight = 1.0
    """How often an epoch sees each of its images, relative to weight 1."""


class RunRequest(Frozen):
    """What to train on what."""

    name: Name | None = None
    """Name of the run; null is the recipe's name with a number."""

    dataset: IdOrName | None = None
    """Id or name of the dataset, when there is one; else ``datasets``."""

    version: Annotated[int, Field(ge=1)] | None = None
    """Number of its version; null is the latest."""

    datasets: Annotated[tuple[DatasetChoice, ...], Field(max_length=MOST_VERSIONS)] = ()
    """Several versions with a weight each, in place of ``dataset``."""

    base: Name
    """Name of the base to train on."""

    recipe: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of a recipe of this server."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted settings that differ from the recipe, such as ``{"lora.rank": 8}``."""

    @property
    def choices(self) -> tuple[DatasetChoice, ...]:
        """The versions that feed it, whichever way they were said."""
        if self.dataset is None:
            return self.datasets
        return (DatasetChoice(dataset=self.dataset, version=self.version),)

    @model_validator(mode="after")
    def _says_its_data_once(self) -> Self:
        if (self.dataset is None) == (not self.datasets):
            raise ValueError("name one `dataset`, or several under `datasets`")
        if self.dataset is None and self.version is not None:
            raise ValueError("`version` belongs to `dataset`; under `datasets` each has its own")
        return self
