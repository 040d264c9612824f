"""Rows that go: of datasets, versions, runs and weights, each with what belongs to it alone.

Blobs go by the collector (catalog/storage.py), folders on a worker's disk by the worker that has them. Decides nothing:
the caller has made sure that nothing refers to what it has removed, and that it is the owner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from catalog.datasets.models import (
    Dataset,
    DatasetEdit,
    DatasetEditChange,
    DatasetFile,
    DatasetImage,
    DatasetIngest,
    DatasetVersion,
    DatasetVersionRow,
)
from catalog.db import db_now
from catalog.registry.models import Weights, WeightsAlias, WeightsNumber, WeightsVersion
from catalog.runs.models import RemovedRun, Run, RunEvent, RunPreview, RunVersion
from catalog.uploads.models import ReceivedFile, Upload, UploadPiece
from contracts.dataset import Fate
from contracts.layouts import FileKind

ERASED = "the picture it shows or describes was removed everywhere on request"


def erase_draft(session: Session, dataset_id: str) -> None:
    """What is in a dataset now, its ledger, edits and unfinished uploads."""
    edits = select(DatasetEdit.id).where(DatasetEdit.dataset_id == dataset_id)
    uploads = select(Upload.id).where(Upload.dataset_id == dataset_id)
    _run(
        session,
        delete(DatasetEditChange).where(DatasetEditChange.edit_id.in_(edits)),
        delete(DatasetEdit).where(DatasetEdit.dataset_id == dataset_id),
        delete(UploadPiece).where(UploadPiece.upload_id.in_(uploads)),
        delete(Upload).where(Upload.dataset_id == dataset_id),
        delete(ReceivedFile).where(ReceivedFile.dataset_id == dataset_id),
        delete(DatasetImage).where(DatasetImage.dataset_id == dataset_id),
        delete(DatasetFile).where(DatasetFile.dataset_id == dataset_id),
        delete(DatasetIngest).where(DatasetIngest.dataset_id == dataset_id),
    )


def erase_image(session: Session, dataset_id: str, image: str) -> bool:
    """One image of a dataset with its captions, edits and mask; its files' rows stay, rejected and without words.

    True when a file of it serves another image, too: that one is left, for ``settle`` to say what becomes of it.
    """
    edits = select(DatasetEdit.id).where(DatasetEdit.dataset_id == dataset_id)
    mine = (DatasetImage.dataset_id == dataset_id, DatasetImage.image == image)
    others = (DatasetImage.dataset_id == dataset_id, DatasetImage.image != image)
    mask_key = session.scalar(select(DatasetImage.mask_key).where(*mine))
    _run(
        session,
        delete(DatasetEditChange).where(DatasetEditChange.edit_id.in_(edits), DatasetEditChange.image == image),
        delete(DatasetImage).where(*mine),
    )
    said = select(DatasetImage.caption_source).where(*others, DatasetImage.caption_source.is_not(None))
    of_it = (DatasetFile.dataset_id == dataset_id, DatasetFile.image == image)
    shared = (DatasetFile.kind == FileKind.CAPTION) & DatasetFile.filename.in_(said)
    words_left = session.scalar(select(DatasetFile.id).where(*of_it, shared).limit(1))
    nothing: dict[str, Any] = {"image": None, "caption": None, "caption_source": None, "blob_key": None}
    gone = {"fate": Fate.REJECTED, "reason": ERASED, "target": None, **nothing}
    inside = select(DatasetFile.id).where(*of_it, DatasetFile.kind == FileKind.IMAGE).scalar_subquery()
    _run(
        session,
        update(DatasetFile).where(DatasetFile.kind == FileKind.MASK, DatasetFile.parent_id.in_(inside)).values(gone),
        update(DatasetFile).where(*of_it, ~shared).values(gone),
        update(DatasetFile).where(*of_it).values(image=None),
    )
    masked = select(DatasetImage.image).where(*others, DatasetImage.mask_key == mask_key).limit(1)
    mask_left = mask_key is not None and session.scalar(masked) is not None
    if mask_key is not None and not mask_left:
        masks = (DatasetFile.kind == FileKind.MASK, DatasetFile.blob_key == mask_key)
        _run(session, update(DatasetFile).where(DatasetFile.dataset_id == dataset_id, *masks).values(gone))
    session.expire_all()
    return words_left is not None or mask_left


def withdraw(session: Session, versions: Sequence[DatasetVersion]) -> None:
    """The images and captions of versions; number and digest stay."""
    _run(session, delete(DatasetVersionRow).where(DatasetVersionRow.version_id.in_([one.id for one in versions])))
    for version in versions:
        version.withdrawn_at = db_now()
    session.flush()


def erase_versions(session: Session, version_ids: Sequence[str]) -> None:
    """Whole versions no run and no weights came of."""
    _run(
        session,
        delete(DatasetVersionRow).where(DatasetVersionRow.version_id.in_(version_ids)),
        delete(DatasetVersion).where(DatasetVersion.id.in_(version_ids)),
    )


def erase_runs(session: Session, owner: str, run_ids: Sequence[str]) -> None:
    """Runs that have ended, with what they said and showed; weights of theirs that stay are of no run any more."""
    _run(
        session,
        update(Weights).where(Weights.run_id.in_(run_ids)).values(run_id=None),
        delete(RunEvent).where(RunEvent.run_id.in_(run_ids)),
        delete(RunPreview).where(RunPreview.run_id.in_(run_ids)),
        delete(RunVersion).where(RunVersion.run_id.in_(run_ids)),
        delete(Run).where(Run.id.in_(run_ids)),
    )
    session.add_all(RemovedRun(owner=owner, run_id=run_id) for run_id in run_ids)
    session.flush()


def erase_weights(session: Session, owner: str, weights: Sequence[Weights]) -> None:
    """Registered weights and the aliases that mean them; their numbers are not given again."""
    for one in weights:
        number = session.get(WeightsNumber, (owner, one.name))
        if number is None:
            number = WeightsNumber(owner=owner, name=one.name, number=0)
            session.add(number)
        number.number = max(number.number, one.version)
        mine = (WeightsAlias.owner == owner, WeightsAlias.name == one.name, WeightsAlias.version == one.version)
        _run(session, delete(WeightsAlias).where(*mine))
    ids = [one.id for one in weights]
    session.flush()
    _run(
        session,
        delete(WeightsVersion).where(WeightsVersion.weights_id.in_(ids)),
        delete(Weights).where(Weights.id.in_(ids)),
    )


def erase_forgotten(session: Session, owner: str) -> None:
    """Versions that were kept for their runs and weights after their dataset was removed, and serve none any more."""
    used = select(RunVersion.version_id).union(select(WeightsVersion.version_id))
    hidden = select(Dataset.id).where(Dataset.owner == owner, Dataset.removed_at.is_not(None))
    idle = select(DatasetVersion.id).where(DatasetVersion.dataset_id.in_(hidden), DatasetVersion.id.not_in(used))
    erase_versions(session, session.scalars(idle).all())
    left = select(DatasetVersion.dataset_id)
    empty = delete(Dataset).where(Dataset.owner == owner, Dataset.removed_at.is_not(None), Dataset.id.not_in(left))
    _run(session, empty)


def _run(session: Session, *statements: Any) -> None:
    for statement in statements:
        session.execute(statement, execution_options={"synchronize_session": False})
