"""Tables of generation requests and their images."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, Listed, Row
from contracts.generate import GenerationStatus


class Generation(Listed):
    """One request, with its base, weights, size and seed resolved when it was made."""

    __tablename__ = "generations"
    __table_args__ = (Index("ix_generations_listed", "owner", "created_at", "id"),)

    status: Mapped[str] = mapped_column(default=GenerationStatus.QUEUED)
    request: Mapped[dict[str, Any]]
    """A contracts.generate.GenerationRequest without nulls: base, seed, width and height are filled in."""
    base_id: Mapped[str] = mapped_column(ForeignKey("bases.id"))
    base_name: Mapped[str]
    base_identity: Mapped[str]
    weights: Mapped[list[dict[str, Any]]]
    """What each choice of the request resolved to: id, name, version, scale, sha256."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    seconds: Mapped[float | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    failure_hint: Mapped[str | None]
    failure_reference: Mapped[str | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class GenerationImage(Base):
    """One picture; ``sha256`` is of the stored file."""

    __tablename__ = "generation_images"
    __table_args__ = (
        UniqueConstraint("generation_id", "position"),
        Index("ix_generation_images_image", "owner", "sha256"),
    )

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    generation_id: Mapped[str] = mapped_column(ForeignKey("generations.id"))
    position: Mapped[int]
    seed: Mapped[int] = mapped_column(Row)
    width: Mapped[int]
    height: Mapped[int]
    sha256: Mapped[str]
    blob_key: Mapped[str]
    bytes: Mapped[int] = mapped_column(Row)
