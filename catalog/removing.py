"""Removing datasets, images, versions, runs and weights; never unasked what something came of.

Each call is one transaction and does all it was asked for or nothing. A run that is under way, and a generation or
another run that waits for weights, are not pulled the rug from under. Blobs go when the collector finds that nobody
refers to them. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from catalog import erasing, lineage
from catalog.datasets import editing
from catalog.datasets import repository as datasets
from catalog.datasets import service as dataset_service
from catalog.datasets.models import REMOVED_MARK, Dataset
from catalog.datasets.settling import settle, settle_removal
from catalog.db import db_now
from catalog.generations.models import Generation
from catalog.generations.service import FINISHED
from catalog.job_requests import FILLING
from catalog.jobs import Job, JobState, returned
from catalog.lineage import Lineage
from catalog.registry import service as registry
from catalog.registry import starting
from catalog.registry.models import Weights
from catalog.runs import service as runs
from catalog.runs.models import Run
from contracts.failures import FailureCode, PatinaError
from contracts.removal import Choice, Offspring, Subject, has_offspring


def remove_dataset(session: Session, owner: str, id_or_name: str, choice: Choice | None = None) -> None:
    """Forget a dataset with its ledger, images, edits and unfinished uploads; a worker that reads it stops.

    Raises:
        PatinaError: NOT_FOUND; HAS_OFFSPRING without a choice; CONFLICT: a run is under way that would go, or one or a
            generation needs weights that would.
    """
    dataset = _dataset(session, owner, id_or_name)
    _stop_filling(session, owner, dataset.id)
    datasets.lock(session, owner, dataset.id)
    found = lineage.of_dataset(session, owner, dataset.id)
    offspring = lineage.told(session, found)
    if choice is None and offspring:
        raise has_offspring(Subject.DATASET, f"'{dataset.told_name}'", offspring)
    if choice is Choice.REMOVE_VERSIONS_RUNS_WEIGHTS:
        _erase_made(session, owner, found)
    erasing.erase_draft(session, dataset.id)
    if dataset.removed_at is None:
        # Its name is free again; the row stays for as long as a version of it does.
        dataset.removed_at, dataset.name = db_now(), f"{dataset.name}{REMOVED_MARK}{dataset.id}"
    session.flush()
    erasing.erase_forgotten(session, owner)


def remove_version(session: Session, owner: str, dataset_id: str, number: int, choice: Choice | None = None) -> None:
    """Withdraw a version: its images and captions go, its number and digest stay named.

    Raises:
        PatinaError: NOT_FOUND; HAS_OFFSPRING without a choice; CONFLICT: a run of it is under way, or another or a
            generation needs weights that would go.
    """
    version = dataset_service.read_version(session, owner, dataset_id, number)
    found = lineage.of_version(session, owner, version)
    offspring = lineage.told(session, found, without=[version])
    if choice is None and offspring:
        name = dataset_service.find_dataset(session, owner, dataset_id).name
        raise has_offspring(Subject.VERSION, f"Version {number} of '{name}'", offspring)
    _refuse_active(found)
    if choice is Choice.REMOVE_RUNS_WEIGHTS:
        _erase_made(session, owner, found)
    erasing.withdraw(session, found.versions)


def remove_image(
    session: Session,
    owner: str,
    dataset_id: str,
    image: str,
    choice: Choice | None = None,
    based_on: frozenset[int] | None = None,
) -> None:
    """Take an image out of a dataset, or away everywhere; versions that held it are withdrawn then.

    Raises:
        PatinaError: NOT_FOUND; PRECONDITION_FAILED; HAS_OFFSPRING without a choice; CONFLICT: a run of a version that
            holds it is under way, or another or a generation needs weights that would go.
    """
    if choice is Choice.KEEP_HISTORY:
        editing.remove_image(session, owner, dataset_id, image, based_on)
        return
    # Every dataset that holds it is locked first and in one order, so that two removals never wait for each other.
    found = lineage.of_image(session, owner, image)
    dataset, row = editing.held_image(session, owner, dataset_id, image, based_on)
    offspring = lineage.told(session, found, without=[dataset])
    if choice is None and offspring:
        raise has_offspring(Subject.IMAGE, row.source_name, offspring)
    _refuse_active(found)
    if choice is Choice.REMOVE_VERSIONS_RUNS_WEIGHTS:
        _erase_made(session, owner, found)
    erasing.withdraw(session, [version for version in found.versions if version.withdrawn_at is None])
    for holding in found.datasets:
        if erasing.erase_image(session, holding.id, image):
            settle(session, owner, holding.id)
        else:
            settle_removal(session, holding, image)
    erasing.erase_forgotten(session, owner)


def remove_run(session: Session, owner: str, run_id: str, choice: Choice | None = None) -> None:
    """Forget a run that has ended, with its events, previews and log.

    Raises:
        PatinaError: NOT_FOUND; HAS_OFFSPRING without a choice; CONFLICT: it is under way, or another or a generation
            needs weights that would go.
    """
    found = lineage.of_run(session, owner, runs.read(session, owner, run_id))
    _refuse_active(found)
    offspring = lineage.told(session, found, without=found.runs)
    if choice is None and offspring:
        raise has_offspring(Subject.RUN, f"Run {run_id}", offspring)
    if choice is Choice.REMOVE_WEIGHTS:
        _erase_weights(session, owner, found.weights)
    erasing.erase_runs(session, owner, [run_id])
    erasing.erase_forgotten(session, owner)


def remove_weights(session: Session, owner: str, name: str, version_or_alias: str) -> Weights:
    """Forget registered weights and the aliases that mean them; pictures made with them stay. Gives what they were.

    Raises:
        PatinaError: NOT_FOUND; CONFLICT: a generation waits for them, or a run that has not ended starts from them.
    """
    weights = registry.read_version(session, owner, name, version_or_alias)
    _erase_weights(session, owner, [weights])
    erasing.erase_forgotten(session, owner)
    return weights


def came_of_dataset(session: Session, owner: str, id_or_name: str) -> Offspring:
    """What ``remove_dataset`` would ask about.

    Raises:
        PatinaError: NOT_FOUND.
    """
    dataset = _dataset(session, owner, id_or_name)
    return lineage.told(session, lineage.of_dataset(session, owner, dataset.id))


def came_of_image(session: Session, owner: str, dataset_id: str, image: str) -> Offspring:
    """What ``remove_image`` would ask about.

    Raises:
        PatinaError: NOT_FOUND.
    """
    found = lineage.of_image(session, owner, image)
    dataset, _ = editing.held_image(session, owner, dataset_id, image, None)
    return lineage.told(session, found, without=[dataset])


def came_of_version(session: Session, owner: str, dataset_id: str, number: int) -> Offspring:
    """What ``remove_version`` would ask about.

    Raises:
        PatinaError: NOT_FOUND.
    """
    version = dataset_service.read_version(session, owner, dataset_id, number)
    return lineage.told(session, lineage.of_version(session, owner, version), without=[version])


def came_of_run(session: Session, owner: str, run_id: str) -> Offspring:
    """What ``remove_run`` would ask about.

    Raises:
        PatinaError: NOT_FOUND.
    """
    run = runs.read(session, owner, run_id)
    return lineage.told(session, lineage.of_run(session, owner, run), without=[run])


def _dataset(session: Session, owner: str, id_or_name: str) -> Dataset:
    """Also one that was removed while its versions were kept, by its id: they can be removed later."""
    kept = select(Dataset).where(Dataset.owner == owner, Dataset.id == id_or_name, Dataset.removed_at.is_not(None))
    return session.scalar(kept) or dataset_service.find_dataset(session, owner, id_or_name)


def _stop_filling(session: Session, owner: str, dataset_id: str) -> None:
    """The job first, as workers do: whoever brings files in finds its lease gone and writes nothing more."""
    filling = update(Job).where(
        Job.owner == owner,
        Job.kind.in_(FILLING),
        Job.subject_id == dataset_id,
        Job.state.in_([JobState.QUEUED, JobState.LEASED]),
    )
    over = {"state": JobState.CANCELLED, "lease_until": None, "finished_at": db_now()}
    returned(session, filling.values(over).returning(Job.id))


def _erase_made(session: Session, owner: str, found: Lineage) -> None:
    _refuse_active(found)
    _erase_weights(session, owner, found.weights)
    erasing.erase_runs(session, owner, [run.id for run in found.runs])


def _erase_weights(session: Session, owner: str, weights: Sequence[Weights]) -> None:
    ids = {one.id for one in weights}
    waiting = select(Generation).where(Generation.owner == owner, Generation.status.not_in(FINISHED))
    for generation in session.scalars(waiting):
        if ids & {entry["id"] for entry in generation.weights}:
            message = f"Generation {generation.id} is to be made with weights that would go."
            raise PatinaError(FailureCode.CONFLICT, message, "Wait for it, or cancel it.")
    _refuse_runs("Still to be trained from weights that would go", starting.starting_from(session, owner, weights))
    erasing.erase_weights(session, owner, weights)


def _refuse_active(found: Lineage) -> None:
    _refuse_runs("Still under way", found.active)


def _refuse_runs(why: str, active: Sequence[Run]) -> None:
    if active:
        named = ", ".join(run.id for run in active)
        raise PatinaError(FailureCode.CONFLICT, f"{why}: {named}.", "Wait for it, or cancel it: runs cancel.")
