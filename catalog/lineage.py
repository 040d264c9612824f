"""What came of what: of a dataset its versions, of versions the runs they fed, of those the weights.

Reads only. Knows nothing about what becomes of any of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from catalog.datasets.models import Dataset, DatasetImage, DatasetVersion, DatasetVersionRow
from catalog.registry.models import Weights, WeightsVersion
from catalog.runs.models import Run, RunVersion
from contracts.removal import Offspring, RunNamed, VersionNamed, WeightsNamed
from contracts.run import FINISHED


@dataclass(frozen=True)
class Lineage:
    """Rows that came of something, in the order in which they are told."""

    versions: Sequence[DatasetVersion] = ()
    runs: Sequence[Run] = ()
    weights: Sequence[Weights] = ()
    datasets: Sequence[Dataset] = ()
    """Of an image: those that hold it."""

    @property
    def active(self) -> list[Run]:
        """Runs that have not ended."""
        return [run for run in self.runs if run.status not in FINISHED]


def of_dataset(session: Session, owner: str, dataset_id: str) -> Lineage:
    """What came of a dataset; its versions are locked until the transaction ends."""
    mine = DatasetVersion.dataset_id == dataset_id
    return _of_versions(session, owner, _locked(session, owner, mine))


def of_version(session: Session, owner: str, version: DatasetVersion) -> Lineage:
    """What came of a version, itself included; it is locked until the transaction ends."""
    return _of_versions(session, owner, _locked(session, owner, DatasetVersion.id == version.id))


def of_image(session: Session, owner: str, image: str) -> Lineage:
    """Every version and dataset of the owner that holds an image, and what came of those versions; all are locked."""
    holding = select(DatasetVersionRow.version_id).where(
        DatasetVersionRow.owner == owner, DatasetVersionRow.image == image
    )
    held_by = select(DatasetImage.dataset_id).where(DatasetImage.owner == owner, DatasetImage.image == image)
    mine = select(Dataset).where(Dataset.owner == owner, Dataset.id.in_(held_by)).order_by(Dataset.id)
    found = session.scalars(mine.with_for_update()).all()
    versions = _locked(session, owner, DatasetVersion.id.in_(holding))
    lineage = _of_versions(session, owner, versions)
    return Lineage(lineage.versions, lineage.runs, lineage.weights, found)


def of_run(session: Session, owner: str, run: Run) -> Lineage:
    """What came of a run, itself included."""
    weights = select(Weights).where(Weights.owner == owner, Weights.run_id == run.id)
    return Lineage(runs=[run], weights=session.scalars(weights.order_by(Weights.name, Weights.version)).all())


def told(session: Session, lineage: Lineage, *, without: Collection[object] = ()) -> Offspring:
    """A lineage in the words of API and command, without what is asked about."""
    ids = {version.dataset_id for version in lineage.versions}
    names = {one.id: one.told_name for one in session.scalars(select(Dataset).where(Dataset.id.in_(ids)))}
    return Offspring(
        datasets=tuple(sorted(one.name for one in lineage.datasets if one not in without)),
        versions=tuple(
            VersionNamed(dataset=names[one.dataset_id], version=one.number, digest=one.digest)
            for one in lineage.versions
            if one not in without
        ),
        runs=tuple(RunNamed(id=one.id, name=one.name, status=one.status) for one in lineage.runs if one not in without),
        weights=tuple(WeightsNamed(name=one.name, version=one.version) for one in lineage.weights),
    )


def _locked(session: Session, owner: str, which: ColumnElement[bool]) -> Sequence[DatasetVersion]:
    query = select(DatasetVersion).where(DatasetVersion.owner == owner, which)
    ordered = query.order_by(DatasetVersion.dataset_id, DatasetVersion.number)
    return session.scalars(ordered.with_for_update(), execution_options={"populate_existing": True}).all()


def _of_versions(session: Session, owner: str, versions: Sequence[DatasetVersion]) -> Lineage:
    ids = [version.id for version in versions]
    fed = select(RunVersion.run_id).where(RunVersion.owner == owner, RunVersion.version_id.in_(ids))
    runs = select(Run).where(Run.owner == owner, Run.id.in_(fed)).order_by(Run.created_at, Run.id)
    linked = select(WeightsVersion.weights_id).where(WeightsVersion.owner == owner, WeightsVersion.version_id.in_(ids))
    trained = select(Weights).where(Weights.owner == owner, or_(Weights.id.in_(linked), Weights.run_id.in_(fed)))
    return Lineage(
        versions,
        session.scalars(runs, execution_options={"populate_existing": True}).all(),
        session.scalars(trained.order_by(Weights.name, Weights.version)).all(),
    )
