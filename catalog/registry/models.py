"""Tables of registered weights and their aliases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, Listed, Row


class Weights(Listed):
    """One version of named weights, tied to the base they belong to; the row never changes."""

    __tablename__ = "weights"
    __table_args__ = (
        UniqueConstraint("owner", "name", "version"),
        # Publishing twice (a worker that does not know whether its commit went through) registers once.
        UniqueConstraint("run_id", "kind", "step"),
        Index("ix_weights_listed", "owner", "created_at", "id"),
    )

    name: Mapped[str]
    version: Mapped[int]
    kind: Mapped[str]
    step: Mapped[int]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    base_name: Mapped[str]
    base_identity: Mapped[str] = mapped_column(index=True)
    dataset_digest: Mapped[str | None]
    dataset_name: Mapped[str | None]
    dataset_version: Mapped[int | None]
    datasets: Mapped[list[dict[str, Any]]]
    """Each version they were trained on: id and name of its dataset, version, digest, weight."""
    trigger_word: Mapped[str | None]
    metrics: Mapped[dict[str, Any]]
    header: Mapped[dict[str, Any]]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(Row)
    blob_key: Mapped[str]


class WeightsVersion(Base):
    """Weights and a dataset version they were trained on."""

    __tablename__ = "weights_versions"

    weights_id: Mapped[str] = mapped_column(ForeignKey("weights.id"), primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True, index=True)


class WeightsNumber(Base):
    """The highest number removed weights of a name had: it is not given again."""

    __tablename__ = "weights_numbers"
    __table_args__ = (PrimaryKeyConstraint("owner", "name"),)

    name: Mapped[str]
    number: Mapped[int]


class WeightsAlias(Base):
    """An owner's own word for one version of a name."""

    __tablename__ = "weights_aliases"
    __table_args__ = (UniqueConstraint("owner", "name", "alias"),)

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    name: Mapped[str]
    alias: Mapped[str]
    version: Mapped[int]
