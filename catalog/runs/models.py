"""Tables of training runs: the run, what its trainer said, and the previews it made."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, Listed, Row, db_now
from contracts.run import RunReason, RunStatus


class Run(Listed):
    """One training run; everything it depends on is resolved when it is created."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_listed", "owner", "created_at", "id"),
        Index("ix_runs_measured", "owner", "shape", "finished_at"),
    )

    name: Mapped[str]
    status: Mapped[str] = mapped_column(default=RunStatus.QUEUED)
    reason: Mapped[str] = mapped_column(default=RunReason.WAITING)
    recipe: Mapped[str]
    overrides: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any]]
    """The whole TrainConfig, resolved."""
    config_digest: Mapped[str]
    plan: Mapped[dict[str, Any]]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    """Of the first version that feeds it, as the next three; ``datasets`` has all of them."""
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    dataset_name: Mapped[str]
    dataset_version: Mapped[int]
    dataset_digest: Mapped[str]
    """Of all that feeds it (contracts/mixing.py): for one version with weight 1 the version's own."""
    datasets: Mapped[list[dict[str, Any]]]
    """Each version that feeds it: id and name of its dataset, version, digest, weight."""
    base_id: Mapped[str] = mapped_column(ForeignKey("bases.id"))
    base_name: Mapped[str]
    base_identity: Mapped[str]
    shape: Mapped[str]
    """Digest of what decides the speed of a step; runs of one shape predict each other."""
    seconds_per_step: Mapped[float | None]
    step: Mapped[int] = mapped_column(default=0)
    steps: Mapped[int]
    loss: Mapped[float | None]
    phase: Mapped[str | None]
    """What it does before the first step: loading, caching or encoding, with progress."""
    tracking: Mapped[str | None]
    save_asked: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Its owner wants a checkpoint at the next step; false again once the worker has passed it on."""
    preview_asked: Mapped[bool] = mapped_column(default=False, server_default=false())
    device: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)
    last_seq: Mapped[int] = mapped_column(default=0)
    events_offset: Mapped[int] = mapped_column(Row, default=0)
    outcome: Mapped[dict[str, Any] | None]
    log_key: Mapped[str | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    failure_hint: Mapped[str | None]
    failure_reference: Mapped[str | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class RunVersion(Base):
    """A run and a version that feeds it."""

    __tablename__ = "run_versions"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True, index=True)


class RemovedRun(Base):
    """A run that was removed: workers that have its directory remove that too."""

    __tablename__ = "removed_runs"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    removed_at: Mapped[float] = mapped_column(default=db_now())


class RunEvent(Base):
    """A line of events.jsonl; ``seq`` counts from 1 in each run."""

    __tablename__ = "run_events"
    __table_args__ = (Index("ix_run_events_type", "run_id", "type", "seq"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    step: Mapped[int]
    body: Mapped[str]
    """JSON of a contracts.events.Event."""


class RunPreview(Base):
    """A picture made while training; ``sha256`` is of the stored file."""

    __tablename__ = "run_previews"
    __table_args__ = (UniqueConstraint("run_id", "file"), Index("ix_run_previews_image", "owner", "sha256"))

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    file: Mapped[str]
    step: Mapped[int]
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(Row)
    sha256: Mapped[str]
    blob_key: Mapped[str]
    bytes: Mapped[int] = mapped_column(Row)
