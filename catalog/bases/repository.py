"""SQL over bases: an owner sees those of the instance and, if there are any, their own."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from catalog.bases.models import Base
from catalog.db import SHARED_OWNER


def visible(owner: str) -> Select[Base]:
    """Bases this owner may use."""
    return select(Base).where(Base.owner.in_([owner, SHARED_OWNER]))


def by_name(session: Session, owner: str, name: str) -> Base | None:
    """A visible base by name; the owner's own hides a shared one."""
    found = session.scalars(visible(owner).where(Base.name == name)).all()
    return min(found, key=lambda base: base.owner == SHARED_OWNER, default=None)


def by_identity(session: Session, owner: str, identity: str) -> Base | None:
    """A visible base with these weights; the one added first when several names have them."""
    query = visible(owner).where(Base.identity == identity).order_by(Base.created_at, Base.id)
    return session.scalars(query.limit(1)).first()


def all_ready(session: Session, owner: str) -> Sequence[Base]:
    """Visible bases that can be used, by name."""
    return session.scalars(visible(owner).where(Base.identity.is_not(None)).order_by(Base.name)).all()


def by_id(session: Session, owner: str, base_id: str) -> Base | None:
    """A visible base by id."""
    return session.scalar(visible(owner).where(Base.id == base_id))
