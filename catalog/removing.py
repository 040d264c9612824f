"""Removing a dataset nothing came of: its rows at once, its blobs when the collector finds that nobody refers to them.

Knows nothing about HTTP; what made a version, a run or weights is never removed here.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from catalog.datasets import repository as datasets
from catalog.datasets.models import DatasetEdit, DatasetEditChange, DatasetFile, DatasetImage, DatasetVersion
from catalog.datasets.service import find_dataset
from catalog.db import db_now
from catalog.job_requests import FILLING
from catalog.jobs import Job, JobState, returned
from catalog.registry.models import Weights
from catalog.runs.models import Run
from catalog.uploads.models import ReceivedFile, Upload, UploadPiece
from contracts.failures import FailureCode, PatinaError

NAMED = 20
"""Things of one kind that a refusal names before it counts the rest."""


def remove_dataset(session: Session, owner: str, id_or_name: str) -> None:
    """Forget a dataset with its ledger, images, edits and unfinished uploads; a worker that reads it stops.

    Raises:
        PatinaError: NOT_FOUND; CONFLICT, naming the versions, runs and weights that came of it.
    """
    dataset = find_dataset(session, owner, id_or_name)
    # The job first, as workers do: whoever reads it finds its lease gone and writes nothing more.
    reading = update(Job).where(
        Job.owner == owner,
        Job.kind.in_(FILLING),
        Job.subject_id == dataset.id,
        Job.state.in_([JobState.QUEUED, JobState.LEASED]),
    )
    over = {"state": JobState.CANCELLED, "lease_until": None, "finished_at": db_now()}
    returned(session, reading.values(over).returning(Job.id))
    datasets.lock(session, owner, dataset.id)
    came_of_it = _came_of_it(session, owner, dataset.id)
    if came_of_it:
        raise PatinaError(
            FailureCode.CONFLICT,
            f"'{dataset.name}' cannot be removed: {'; '.join(came_of_it)} came of it.",
            "They name what they were made from. Take single images out of the dataset instead.",
        )
    _remove_rows(session, dataset.id)
    session.delete(dataset)
    session.flush()


def _came_of_it(session: Session, owner: str, dataset_id: str) -> list[str]:
    versions = select(DatasetVersion.number).where(DatasetVersion.owner == owner)
    versions = versions.where(DatasetVersion.dataset_id == dataset_id).order_by(DatasetVersion.number)
    runs = select(Run.id).where(Run.owner == owner, Run.dataset_id == dataset_id).order_by(Run.created_at, Run.id)
    weights = select(Weights).where(Weights.owner == owner, Weights.run_id.in_(runs.order_by(None)))
    trained = session.scalars(weights.order_by(Weights.name, Weights.version))
    found = [
        ("version", [str(number) for number in session.scalars(versions)]),
        ("run", list(session.scalars(runs))),
        ("weights", [f"{one.name}@{one.version}" for one in trained]),
    ]
    return [f"{kind} {_listed(names)}" for kind, names in found if names]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _remove_rows(session: Session, dataset_id: str) -> None:
    """What refers to the dataset, whatever refers to other rows first; the caller has found it to be the owner's."""
    edits = select(DatasetEdit.id).where(DatasetEdit.dataset_id == dataset_id)
    uploads = select(Upload.id).where(Upload.dataset_id == dataset_id)
    for statement in (
        delete(DatasetEditChange).where(DatasetEditChange.edit_id.in_(edits)),
        delete(DatasetEdit).where(DatasetEdit.dataset_id == dataset_id),
        delete(UploadPiece).where(UploadPiece.upload_id.in_(uploads)),
        delete(Upload).where(Upload.dataset_id == dataset_id),
        delete(ReceivedFile).where(ReceivedFile.dataset_id == dataset_id),
        delete(DatasetImage).where(DatasetImage.dataset_id == dataset_id),
        delete(DatasetFile).where(DatasetFile.dataset_id == dataset_id),
    ):
        session.execute(statement, execution_options={"synchronize_session": False})
