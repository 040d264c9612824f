"""Table of API keys: hashes only."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, db_now


class ApiKey(Base):
    """One key; ``id`` is the short id in its text."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_sha256: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=db_now())
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
