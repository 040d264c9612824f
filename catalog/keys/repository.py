"""SQL over API keys. Knows nothing about how a key is written."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from catalog.db import db_now
from catalog.keys.models import ApiKey

USED_EVERY_S = 60.0
"""A key's last use is noted at most this often, so that reading does not mean writing."""


def by_short_id(session: Session, short_id: str) -> ApiKey | None:
    """The key a caller claims to have: the one query without an owner, since it finds the owner."""
    return session.scalar(select(ApiKey).where(ApiKey.id == short_id))


def of_owner(session: Session, owner: str) -> Sequence[ApiKey]:
    """An owner's keys, newest first."""
    return session.scalars(
        select(ApiKey).where(ApiKey.owner == owner).order_by(ApiKey.created_at.desc(), ApiKey.id)
    ).all()


def of_everybody(session: Session) -> Sequence[ApiKey]:
    """Every key, newest first: for whoever runs the server, and never behind a route."""
    return session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)).all()


def any_usable(session: Session) -> bool:
    """Whether any key works, whoever's it is; tells nothing about it."""
    return session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)) is not None


def note_use(session: Session, key: ApiKey) -> None:
    """Note that a key was used, when the last note is old."""
    stale = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < db_now() - USED_EVERY_S)
    session.execute(
        update(ApiKey).where(ApiKey.owner == key.owner, ApiKey.id == key.id, stale).values(last_used_at=db_now()),
        execution_options={"synchronize_session": False},
    )


def revoke(session: Session, owner: str, short_id: str) -> bool:
    """End a key; False when the owner has no such key."""
    mine = update(ApiKey).where(ApiKey.owner == owner, ApiKey.id == short_id)
    return session.execute(mine.values(revoked_at=db_now()).returning(ApiKey.id)).first() is not None
