"""SQL over runs, their events and previews. Knows nothing about what a run may become."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from catalog.datasets.models import DatasetVersion
from catalog.runs.models import RemovedRun, Run, RunEvent, RunPreview, RunVersion
from contracts.run import FINISHED, RunReason, RunStatus


def owned(owner: str) -> Select[Run]:
    """An owner's runs."""
    return select(Run).where(Run.owner == owner)


def by_id(session: Session, owner: str, run_id: str) -> Run | None:
    """One run, as the database has it now."""
    return session.scalar(owned(owner).where(Run.id == run_id).execution_options(populate_existing=True))


def unfinished(session: Session, owner: str) -> Sequence[Run]:
    """Runs that have not ended, oldest first."""
    return session.scalars(owned(owner).where(Run.status.not_in(FINISHED)).order_by(Run.created_at, Run.id)).all()


def versions(session: Session, owner: str, run_id: str) -> list[tuple[str, str]]:
    """Id and digest of each version that feeds a run."""
    query = (
        select(DatasetVersion.id, DatasetVersion.digest)
        .join(RunVersion, RunVersion.version_id == DatasetVersion.id)
        .where(RunVersion.owner == owner, RunVersion.run_id == run_id)
    )
    return [(version_id, digest) for version_id, digest in session.execute(query)]


def removed_among(session: Session, run_ids: Sequence[str]) -> set[str]:
    """Those that were removed."""
    return set(session.scalars(select(RemovedRun.run_id).where(RemovedRun.run_id.in_(run_ids))))


def ended_on_withdrawn(session: Session, run_ids: Sequence[str]) -> set[str]:
    """Those that have ended and were fed by a version that was withdrawn since."""
    query = (
        select(Run.id)
        .join(RunVersion, RunVersion.run_id == Run.id)
        .join(DatasetVersion, DatasetVersion.id == RunVersion.version_id)
        .where(Run.id.in_(run_ids), Run.status.in_(FINISHED), DatasetVersion.withdrawn_at.is_not(None))
    )
    return set(session.scalars(query))


def change_reason(session: Session, status: RunStatus, before: RunReason, after: RunReason) -> None:
    """Give every owner's runs of this status another reason: it speaks of the instance and not of a run."""
    session.execute(update(Run).where(Run.status == status, Run.reason == before).values(reason=after))


def free_name(session: Session, owner: str, recipe: str) -> str:
    """The recipe's name with the number after the highest that a run of the owner's has."""
    alike = Run.name.startswith(f"{recipe}-", autoescape=True)
    names = session.scalars(select(Run.name).where(Run.owner == owner, alike))
    numbers = (name.removeprefix(f"{recipe}-") for name in names)
    return f"{recipe}-{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}"


def latest_of_shape(session: Session, owner: str, shape: str) -> Run | None:
    """The owner's run of this shape that finished last."""
    query = owned(owner).where(Run.shape == shape, Run.status == RunStatus.SUCCEEDED)
    return session.scalars(query.order_by(Run.finished_at.desc()).limit(1)).first()


def events(session: Session, owner: str, run_id: str, after_seq: int, limit: int) -> Sequence[RunEvent]:
    """Events after ``after_seq`` in order."""
    query = select(RunEvent).where(RunEvent.owner == owner, RunEvent.run_id == run_id, RunEvent.seq > after_seq)
    return session.scalars(query.order_by(RunEvent.seq).limit(limit)).all()


def events_of_types(
    session: Session, owner: str, run_id: str, types: Sequence[str], after_seq: int = 0
) -> Sequence[RunEvent]:
    """Events of some types in order."""
    query = select(RunEvent).where(
        RunEvent.owner == owner, RunEvent.run_id == run_id, RunEvent.type.in_(types), RunEvent.seq > after_seq
    )
    return session.scalars(query.order_by(RunEvent.seq)).all()


def last_checkpoint(session: Session, owner: str, run_id: str) -> int:
    """The furthest step of which the trainer has said that a checkpoint was saved; 0 when it has said none."""
    said = select(func.max(RunEvent.step)).where(RunEvent.run_id == run_id, RunEvent.type == "checkpoint")
    return session.scalar(said.where(RunEvent.owner == owner)) or 0


def preview(session: Session, owner: str, run_id: str, file: str) -> RunPreview | None:
    """One preview by the name the trainer gave it."""
    return session.scalar(
        select(RunPreview).where(RunPreview.owner == owner, RunPreview.run_id == run_id, RunPreview.file == file)
    )


def preview_by_hash(session: Session, owner: str, sha256: str) -> RunPreview | None:
    """A preview of any of the owner's runs by the hash of its file."""
    query = select(RunPreview).where(RunPreview.owner == owner, RunPreview.sha256 == sha256)
    return session.scalars(query.limit(1)).first()


def previews(session: Session, owner: str, run_id: str) -> Sequence[RunPreview]:
    """A run's previews by step."""
    query = select(RunPreview).where(RunPreview.owner == owner, RunPreview.run_id == run_id)
    return session.scalars(query.order_by(RunPreview.step, RunPreview.id)).all()
