"""What came of something that is to be removed, and what can become of that. Knows nothing about tables.

Of a dataset come versions, of versions runs, of runs weights. A removal that would take away what others came from says
what that is and asks: the same words in the API's problem, in its dry run, and in the command's question.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from contracts.config import Frozen
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError


class Subject(StrEnum):
    """What can be removed although something came of it."""

    DATASET = "dataset"
    IMAGE = "image"
    VERSION = "version"
    RUN = "run"


class Choice(StrEnum):
    """What becomes of what came of it, as a query says it."""

    KEEP_HISTORY = "keep=history"
    REMOVE_VERSIONS = "remove=versions"
    REMOVE_VERSIONS_RUNS_WEIGHTS = "remove=versions,runs,weights"
    REMOVE_RUNS_WEIGHTS = "remove=runs,weights"
    REMOVE_WEIGHTS = "remove=weights"


CHOICES: dict[Subject, dict[Choice, str]] = {
    Subject.DATASET: {
        Choice.KEEP_HISTORY: "runs and weights stay, with the versions they came from; all else of the dataset goes",
        Choice.REMOVE_VERSIONS_RUNS_WEIGHTS: "everything goes: the dataset and what came of it",
    },
    Subject.IMAGE: {
        Choice.KEEP_HISTORY: "it is taken out of this dataset alone and can be put back; versions keep it",
        Choice.REMOVE_VERSIONS: "it goes everywhere: versions that hold it are withdrawn, runs and weights stay",
        Choice.REMOVE_VERSIONS_RUNS_WEIGHTS: "it goes everywhere, and so do the runs and weights that came of it",
    },
    Subject.VERSION: {
        Choice.KEEP_HISTORY: "its images and captions go; runs and weights stay and name it by its digest",
        Choice.REMOVE_RUNS_WEIGHTS: "its images and captions go, and so do the runs and weights that came of it",
    },
    Subject.RUN: {
        Choice.KEEP_HISTORY: "its weights stay, and name the versions they were trained on",
        Choice.REMOVE_WEIGHTS: "its weights go with it",
    },
}
"""What can be chosen for each subject, and what it means."""


class VersionNamed(Frozen):
    """A frozen version."""

    dataset: str
    version: int
    digest: str


class RunNamed(Frozen):
    """A training run."""

    id: str
    name: str
    status: str


class WeightsNamed(Frozen):
    """One version of named weights."""

    name: str
    version: int


class Offspring(Frozen):
    """What came of something; of an image also the other datasets that hold it."""

    datasets: tuple[str, ...] = ()
    versions: tuple[VersionNamed, ...] = ()
    runs: tuple[RunNamed, ...] = ()
    weights: tuple[WeightsNamed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.datasets or self.versions or self.runs or self.weights)

    @property
    def counted(self) -> str:
        """How many of each there are, in words."""
        kinds = {"dataset": self.datasets, "version": self.versions, "run": self.runs}
        words = [f"{len(found)} {kind}{'s' if len(found) > 1 else ''}" for kind, found in kinds.items() if found]
        return ", ".join([*words, *([f"{len(self.weights)} weights"] if self.weights else [])])


class HasOffspring(PatinaError):
    """Not removed: something came of it, and nobody has said what shall become of that."""

    def __init__(self, offspring: Offspring, choices: Mapping[str, str], message: str, hint: str) -> None:
        self.offspring = offspring
        self.choices = dict(choices)
        super().__init__(FailureCode.HAS_OFFSPRING, message, hint)


def has_offspring(subject: Subject, what: str, offspring: Offspring) -> HasOffspring:
    """The refusal to remove something unasked, with what can be chosen."""
    choices = {str(choice): meaning for choice, meaning in CHOICES[subject].items()}
    said = " or ".join(f"`{choice}` ({meaning})" for choice, meaning in choices.items())
    message = f"{what} is not removed: {offspring.counted} came of it."
    return HasOffspring(offspring, choices, message, f"Say what shall become of them: {said}.")


def choice_of(subject: Subject, keep: str | None, remove: str | None) -> Choice | None:
    """What two query parameters choose; None when they say nothing.

    Raises:
        InvalidInput: this cannot be chosen for the subject.
    """
    if keep is None and remove is None:
        return None
    parts = ",".join(sorted({part.strip() for part in (remove or "").split(",")}, key=_place))
    wanted = f"keep={keep}" if remove is None else f"remove={parts}" if keep is None else "keep and remove"
    for choice in CHOICES[subject]:
        if choice == wanted:
            return choice
    known = " or ".join(CHOICES[subject])
    raise InvalidInput([FieldError(pointer=f"/query/{'keep' if remove is None else 'remove'}", message=f"say {known}")])


def _place(word: str) -> tuple[int, str]:
    order = ("versions", "runs", "weights")
    return (order.index(word) if word in order else len(order), word)
