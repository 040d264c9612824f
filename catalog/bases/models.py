"""Table of base models."""

from __future__ import annotations

from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base as Table
from catalog.db import db_now


class Base(Table):
    """A base model; ``source`` is where it lies on the server and is never shown over HTTP."""

    __tablename__ = "bases"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str | None]
    identity: Mapped[str | None] = mapped_column(index=True)
    description: Mapped[dict[str, Any] | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=db_now())
