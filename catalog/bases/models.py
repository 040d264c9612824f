"""Table of base models."""

from __future__ import annotations

from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Listed


class Base(Listed):
    """A base model; ``source`` is where it lies on the server and is never shown over HTTP."""

    __tablename__ = "bases"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    name: Mapped[str]
    status: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str | None]
    identity: Mapped[str | None] = mapped_column(index=True)
    description: Mapped[dict[str, Any] | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
