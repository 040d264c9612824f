"""The first tables.

Revision r0001, after nothing. Never edited once released.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


TEXT, INTEGER, FLAG, JSON = sa.Text(), sa.Integer(), sa.Boolean(), sa.JSON()
NUMBER: sa.Double[float] = sa.Double()
COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# fmt: off
TABLES = (
    "api_keys", "bases", "datasets", "device_slots", "jobs", "weights_aliases", "workers", "dataset_files",
    "dataset_versions", "generations", "dataset_images", "dataset_version_rows", "generation_images", "runs",
    "run_events", "run_previews", "weights",
)
# fmt: on


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_keys",
        *columns(TEXT, "owner", "id", "name", "secret_sha256"),
        *columns(NUMBER, "created_at"),
        *columns(NUMBER, "last_used_at", "revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_table(
        "bases",
        *columns(TEXT, "id", "owner", "name", "status", "source"),
        *columns(TEXT, "licence", "identity", nullable=True),
        *columns(JSON, "description", nullable=True),
        *columns(TEXT, "failure_code", "failure_message", nullable=True),
        *columns(NUMBER, "created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_bases"),
        sa.UniqueConstraint("owner", "name", name="uq_bases_owner_name"),
    )
    op.create_index("ix_bases_identity", "bases", ["identity"])
    op.create_table(
        "datasets",
        *columns(TEXT, "id", "owner", "name"),
        *columns(NUMBER, "created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("owner", "name", name="uq_datasets_owner_name"),
    )
    op.create_index("ix_datasets_listed", "datasets", ["owner", "created_at", "id"])
    op.create_table(
        "device_slots",
        *columns(TEXT, "owner"),
        *columns(COUNT, "id"),
        *columns(TEXT, "host"),
        *columns(INTEGER, "index"),
        *columns(TEXT, "device"),
        *columns(COUNT, "memory_bytes", "job_id", nullable=True),
        *columns(INTEGER, "job_fence", nullable=True),
        *columns(TEXT, "engine_id", nullable=True),
        *columns(NUMBER, "engine_lease_until", "unload_requested_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_device_slots"),
        sa.UniqueConstraint("host", "index", name="uq_device_slots_host_index"),
    )
    op.create_table(
        "jobs",
        *columns(TEXT, "owner"),
        *columns(COUNT, "id"),
        *columns(TEXT, "queue", "kind", "subject_id", "state"),
        *columns(INTEGER, "priority", "fence", "attempts", "failures", "preemptions"),
        *columns(TEXT, "lease_owner", nullable=True),
        *columns(NUMBER, "lease_until", "cancel_requested_at", nullable=True),
        *columns(NUMBER, "rung_at", "created_at"),
        *columns(NUMBER, "finished_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_claim", "jobs", ["queue", "state", "priority", "id"])
    op.create_index("ix_jobs_subject", "jobs", ["subject_id", "kind", "state"])
    op.create_index("ix_jobs_sweep", "jobs", ["state", "lease_until"])
    op.create_table(
        "weights_aliases",
        *columns(TEXT, "owner"),
        *columns(COUNT, "id"),
        *columns(TEXT, "name", "alias"),
        *columns(INTEGER, "version"),
        sa.PrimaryKeyConstraint("id", name="pk_weights_aliases"),
        sa.UniqueConstraint("owner", "name", "alias", name="uq_weights_aliases_owner_name_alias"),
    )
    op.create_table(
        "workers",
        *columns(TEXT, "owner", "id", "role", "host", "boot_id"),
        *columns(INTEGER, "pid"),
        *columns(NUMBER, "started_at", "heartbeat_at"),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "dataset_files",
        *columns(TEXT, "owner"),
        *columns(COUNT, "id"),
        *columns(TEXT, "dataset_id"),
        *columns(COUNT, "parent_id", nullable=True),
        *columns(INTEGER, "child_index", nullable=True),
        *columns(TEXT, "filename", "kind"),
        *columns(TEXT, "blob_key", nullable=True),
        *columns(COUNT, "bytes"),
        *columns(TEXT, "fate"),
        *columns(TEXT, "reason", "image", nullable=True),
        *columns(INTEGER, "width", "height", nullable=True),
        *columns(TEXT, "caption", "caption_source", "target", nullable=True),
        *columns(NUMBER, "offered_at"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_files_dataset_id_datasets"),
        sa.ForeignKeyConstraint(["parent_id"], ["dataset_files.id"], name="fk_dataset_files_parent_id_dataset_files"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_files"),
        sa.UniqueConstraint("parent_id", "child_index", name="uq_dataset_files_parent_id_child_index"),
    )
    op.create_index("ix_dataset_files_dataset", "dataset_files", ["dataset_id", "id"])
    op.create_index("ix_dataset_files_fate", "dataset_files", ["dataset_id", "fate", "kind"])
    op.create_table(
        "dataset_versions",
        *columns(TEXT, "owner", "id", "dataset_id"),
        *columns(INTEGER, "number"),
        *columns(TEXT, "digest"),
        *columns(NUMBER, "held_out_share"),
        *columns(JSON, "summary"),
        *columns(NUMBER, "created_at"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_versions_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_versions"),
        sa.UniqueConstraint("dataset_id", "digest", name="uq_dataset_versions_dataset_id_digest"),
        sa.UniqueConstraint("dataset_id", "number", name="uq_dataset_versions_dataset_id_number"),
    )
    op.create_table(
        "generations",
        *columns(TEXT, "id", "owner", "status"),
        *columns(JSON, "request"),
        *columns(TEXT, "base_id", "base_name", "base_identity"),
        *columns(JSON, "weights"),
        *columns(FLAG, "cancel_requested"),
        *columns(NUMBER, "seconds", nullable=True),
        *columns(TEXT, "failure_code", "failure_message", "failure_hint", "failure_reference", nullable=True),
        *columns(NUMBER, "started_at", "finished_at", nullable=True),
        *columns(NUMBER, "created_at"),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name="fk_generations_base_id_bases"),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
    )
    op.create_index("ix_generations_listed", "generations", ["owner", "created_at", "id"])
    op.create_table(
        "dataset_images",
        *columns(TEXT, "owner", "dataset_id", "image"),
        *columns(COUNT, "file_id"),
        *columns(TEXT, "blob_key"),
        *columns(INTEGER, "width", "height"),
        *columns(TEXT, "source_name"),
        *columns(TEXT, "caption", "caption_source", nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_images_dataset_id_datasets"),
        sa.ForeignKeyConstraint(["file_id"], ["dataset_files.id"], name="fk_dataset_images_file_id_dataset_files"),
        sa.PrimaryKeyConstraint("dataset_id", "image", name="pk_dataset_images"),
    )
    op.create_index("ix_dataset_images_image", "dataset_images", ["owner", "image"])
    op.create_table(
        "dataset_version_rows",
        *columns(TEXT, "owner", "version_id"),
        *columns(INTEGER, "position"),
        *columns(TEXT, "image", "blob_key", "caption"),
        *columns(TEXT, "concept", nullable=True),
        *columns(INTEGER, "repeats"),
        *columns(TEXT, "split"),
        *columns(INTEGER, "original_width", "original_height"),
        *columns(TEXT, "source_name"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name="fk_dataset_version_rows_version_id_dataset_versions"
        ),
        sa.PrimaryKeyConstraint("version_id", "position", name="pk_dataset_version_rows"),
    )
    op.create_table(
        "generation_images",
        *columns(TEXT, "owner"),
        *columns(COUNT, "id"),
        *columns(TEXT, "generation_id"),
        *columns(INTEGER, "position"),
        *columns(COUNT, "seed"),
        *columns(INTEGER, "width", "height"),
        *columns(TEXT, "sha256", "blob_key"),
        *columns(COUNT, "bytes"),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name="fk_generation_images_generation_id_generations"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_generation_images"),
        sa.UniqueConstraint("generation_id", "position", name="uq_generation_images_generation_id_position"),
    )
    op.create_index("ix_generation_images_image", "generation_images", ["owner", "sha256"])
    op.create_table(
        "runs",
        *columns(TEXT, "id", "owner", "name", "status", "reason", "recipe"),
        *columns(JSON, "overrides", "config"),
        *columns(TEXT, "config_digest"),
        *columns(JSON, "plan"),
        *columns(TEXT, "dataset_id", "version_id", "dataset_name"),
        *columns(INTEGER, "dataset_version"),
        *columns(TEXT, "dataset_digest", "base_id", "base_name", "base_identity", "shape"),
        *columns(NUMBER, "seconds_per_step", nullable=True),
        *columns(INTEGER, "step", "steps"),
        *columns(NUMBER, "loss", nullable=True),
        *columns(TEXT, "phase", "tracking", "device", nullable=True),
        *columns(INTEGER, "attempt", "last_seq"),
        *columns(COUNT, "events_offset"),
        *columns(JSON, "outcome", nullable=True),
        *columns(
            TEXT, "log_key", "failure_code", "failure_message", "failure_hint", "failure_reference", nullable=True
        ),
        *columns(NUMBER, "started_at", "finished_at", nullable=True),
        *columns(NUMBER, "created_at"),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name="fk_runs_base_id_bases"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_runs_dataset_id_datasets"),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_runs_version_id_dataset_versions"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_listed", "runs", ["owner", "created_at", "id"])
    op.create_index("ix_runs_measured", "runs", ["owner", "shape", "finished_at"])
    op.create_table(
        "run_events",
        *columns(TEXT, "owner", "run_id"),
        *columns(INTEGER, "seq"),
        *columns(TEXT, "type"),
        *columns(INTEGER, "step"),
        *columns(TEXT, "body"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_events_run_id_runs"),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_run_events"),
    )
    op.create_index("ix_run_events_type", "run_events", ["run_id", "type", "seq"])
    op.create_table(
        "run_previews",
        *columns(TEXT, "owner"),
        *columns(COUNT, "id"),
        *columns(TEXT, "run_id", "file"),
        *columns(INTEGER, "step"),
        *columns(TEXT, "prompt"),
        *columns(COUNT, "seed"),
        *columns(TEXT, "sha256", "blob_key"),
        *columns(COUNT, "bytes"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_previews_run_id_runs"),
        sa.PrimaryKeyConstraint("id", name="pk_run_previews"),
        sa.UniqueConstraint("run_id", "file", name="uq_run_previews_run_id_file"),
    )
    op.create_index("ix_run_previews_image", "run_previews", ["owner", "sha256"])
    op.create_table(
        "weights",
        *columns(TEXT, "id", "owner", "name"),
        *columns(INTEGER, "version"),
        *columns(TEXT, "kind"),
        *columns(INTEGER, "step"),
        *columns(TEXT, "run_id", nullable=True),
        *columns(TEXT, "base_name", "base_identity"),
        *columns(TEXT, "dataset_digest", "dataset_name", nullable=True),
        *columns(INTEGER, "dataset_version", nullable=True),
        *columns(TEXT, "trigger_word", nullable=True),
        *columns(JSON, "metrics", "header"),
        *columns(TEXT, "sha256"),
        *columns(COUNT, "bytes"),
        *columns(TEXT, "blob_key"),
        *columns(NUMBER, "created_at"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_weights_run_id_runs"),
        sa.PrimaryKeyConstraint("id", name="pk_weights"),
        sa.UniqueConstraint("owner", "name", "version", name="uq_weights_owner_name_version"),
        sa.UniqueConstraint("run_id", "kind", "step", name="uq_weights_run_id_kind_step"),
    )
    op.create_index("ix_weights_base_identity", "weights", ["base_identity"])
    op.create_index("ix_weights_listed", "weights", ["owner", "created_at", "id"])


def downgrade() -> None:
    """Take back."""
    for table in reversed(TABLES):
        op.drop_table(table)


def columns(kind: Any, *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    """Columns of one type."""
    return [sa.Column(name, kind, nullable=nullable) for name in names]
