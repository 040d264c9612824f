"""SQL over weights and aliases."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from catalog.registry.models import Weights, WeightsAlias, WeightsNumber, WeightsVersion
from catalog.runs.models import RunVersion


def owned(owner: str) -> Select[Weights]:
    """An owner's weights."""
    return select(Weights).where(Weights.owner == owner)


def by_id(session: Session, owner: str, weights_id: str) -> Weights | None:
    """One version by id."""
    return session.scalar(owned(owner).where(Weights.id == weights_id))


def published(session: Session, owner: str, run_id: str, kind: str, step: int) -> Weights | None:
    """What a run has already published at a step."""
    query = owned(owner).where(Weights.run_id == run_id, Weights.kind == kind, Weights.step == step)
    return session.scalar(query)


def versions(session: Session, owner: str, name: str) -> Sequence[Weights]:
    """Versions of a name, newest first."""
    return session.scalars(owned(owner).where(Weights.name == name).order_by(Weights.version.desc())).all()


def version(session: Session, owner: str, name: str, number: int) -> Weights | None:
    """One version by number."""
    return session.scalar(owned(owner).where(Weights.name == name, Weights.version == number))


def last_version(session: Session, owner: str, name: str) -> int:
    """The highest version number a name ever had, removed ones too; 0 when it had none."""
    there = select(func.max(Weights.version)).where(Weights.owner == owner, Weights.name == name)
    removed = select(WeightsNumber.number).where(WeightsNumber.owner == owner, WeightsNumber.name == name)
    return max(session.scalar(there) or 0, session.scalar(removed) or 0)


def link_versions(session: Session, weights: Weights) -> None:
    """Weights come of the dataset versions their run is fed by."""
    fed = select(RunVersion.version_id).where(RunVersion.owner == weights.owner, RunVersion.run_id == weights.run_id)
    for version_id in session.scalars(fed).all():
        session.add(WeightsVersion(owner=weights.owner, weights_id=weights.id, version_id=version_id))
    session.flush()


def of_run(session: Session, owner: str, run_id: str) -> Sequence[Weights]:
    """What a run has published, by step."""
    return session.scalars(owned(owner).where(Weights.run_id == run_id).order_by(Weights.step, Weights.id)).all()


def registered_among(session: Session, hashes: Sequence[str]) -> set[str]:
    """Those of the hashes that are of registered weights, whoever's they are."""
    return set(session.scalars(select(Weights.sha256).where(Weights.sha256.in_(hashes))))


def alias(session: Session, owner: str, name: str, word: str) -> WeightsAlias | None:
    """An alias of a name."""
    return session.scalar(
        select(WeightsAlias).where(WeightsAlias.owner == owner, WeightsAlias.name == name, WeightsAlias.alias == word)
    )


def aliases(session: Session, owner: str, names: Sequence[str]) -> Sequence[WeightsAlias]:
    """Every alias of some names."""
    query = select(WeightsAlias).where(WeightsAlias.owner == owner, WeightsAlias.name.in_(names))
    return session.scalars(query.order_by(WeightsAlias.alias)).all()


def remove_alias(session: Session, owner: str, name: str, word: str) -> bool:
    """Forget an alias; False when there is none."""
    statement = delete(WeightsAlias).where(
        WeightsAlias.owner == owner, WeightsAlias.name == name, WeightsAlias.alias == word
    )
    return session.execute(statement.returning(WeightsAlias.id)).first() is not None
