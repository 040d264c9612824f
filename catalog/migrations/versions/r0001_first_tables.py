"""The first tables.

Revision r0001, after nothing. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_keys",
        *texts("owner", "id", "name", "secret_sha256"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_used_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_table(
        "bases",
        *texts("id", "owner", "name", "status", "source"),
        *texts("licence", "identity", nullable=True),
        sa.Column("description", sa.JSON(), nullable=True),
        *texts("failure_code", "failure_message", nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bases"),
        sa.UniqueConstraint("owner", "name", name="uq_bases_owner_name"),
    )
    op.create_index("ix_bases_identity", "bases", ["identity"], unique=False)
    op.create_table(
        "datasets",
        *texts("id", "owner", "name"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("owner", "name", name="uq_datasets_owner_name"),
    )
    op.create_index("ix_datasets_listed", "datasets", ["owner", "created_at", "id"], unique=False)
    op.create_table(
        "device_slots",
        text("owner"),
        sa.Column("id", COUNT, nullable=False),
        text("host"),
        sa.Column("index", sa.Integer(), nullable=False),
        text("device"),
        sa.Column("memory_bytes", COUNT, nullable=True),
        sa.Column("job_id", COUNT, nullable=True),
        sa.Column("job_fence", sa.Integer(), nullable=True),
        text("engine_id", nullable=True),
        sa.Column("engine_lease_until", sa.Double(), nullable=True),
        sa.Column("unload_requested_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_device_slots"),
        sa.UniqueConstraint("host", "index", name="uq_device_slots_host_index"),
    )
    op.create_table(
        "jobs",
        text("owner"),
        sa.Column("id", COUNT, nullable=False),
        *texts("queue", "kind", "subject_id", "state"),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("preemptions", sa.Integer(), nullable=False),
        text("lease_owner", nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("cancel_requested_at", sa.Double(), nullable=True),
        sa.Column("rung_at", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_claim", "jobs", ["queue", "state", "priority", "id"], unique=False)
    op.create_index("ix_jobs_subject", "jobs", ["subject_id", "kind", "state"], unique=False)
    op.create_index("ix_jobs_sweep", "jobs", ["state", "lease_until"], unique=False)
    op.create_table(
        "weights_aliases",
        text("owner"),
        sa.Column("id", COUNT, nullable=False),
        *texts("name", "alias"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_weights_aliases"),
        sa.UniqueConstraint("owner", "name", "alias", name="uq_weights_aliases_owner_name_alias"),
    )
    op.create_table(
        "workers",
        *texts("owner", "id", "role", "host", "boot_id"),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("heartbeat_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "dataset_files",
        text("owner"),
        sa.Column("id", COUNT, nullable=False),
        text("dataset_id"),
        sa.Column("parent_id", COUNT, nullable=True),
        sa.Column("child_index", sa.Integer(), nullable=True),
        *texts("filename", "kind"),
        text("blob_key", nullable=True),
        sa.Column("bytes", COUNT, nullable=False),
        text("fate"),
        *texts("reason", "image", nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        *texts("caption", "caption_source", "target", nullable=True),
        sa.Column("offered_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_files_dataset_id_datasets"),
        sa.ForeignKeyConstraint(["parent_id"], ["dataset_files.id"], name="fk_dataset_files_parent_id_dataset_files"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_files"),
        sa.UniqueConstraint("parent_id", "child_index", name="uq_dataset_files_parent_id_child_index"),
    )
    op.create_index("ix_dataset_files_dataset", "dataset_files", ["dataset_id", "id"], unique=False)
    op.create_index("ix_dataset_files_fate", "dataset_files", ["dataset_id", "fate", "kind"], unique=False)
    op.create_table(
        "dataset_versions",
        *texts("owner", "id", "dataset_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        text("digest"),
        sa.Column("held_out_share", sa.Double(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_versions_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_versions"),
        sa.UniqueConstraint("dataset_id", "digest", name="uq_dataset_versions_dataset_id_digest"),
        sa.UniqueConstraint("dataset_id", "number", name="uq_dataset_versions_dataset_id_number"),
    )
    op.create_table(
        "generations",
        *texts("id", "owner", "status"),
        sa.Column("request", sa.JSON(), nullable=False),
        *texts("base_id", "base_name", "base_identity"),
        sa.Column("weights", sa.JSON(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        *texts("failure_code", "failure_message", "failure_hint", "failure_reference", nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name="fk_generations_base_id_bases"),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
    )
    op.create_index("ix_generations_listed", "generations", ["owner", "created_at", "id"], unique=False)
    op.create_table(
        "dataset_images",
        *texts("owner", "dataset_id", "image"),
        sa.Column("file_id", COUNT, nullable=False),
        text("blob_key"),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        text("source_name"),
        *texts("caption", "caption_source", nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_images_dataset_id_datasets"),
        sa.ForeignKeyConstraint(["file_id"], ["dataset_files.id"], name="fk_dataset_images_file_id_dataset_files"),
        sa.PrimaryKeyConstraint("dataset_id", "image", name="pk_dataset_images"),
    )
    op.create_table(
        "dataset_version_rows",
        *texts("owner", "version_id"),
        sa.Column("position", sa.Integer(), nullable=False),
        *texts("image", "blob_key", "caption"),
        text("concept", nullable=True),
        sa.Column("repeats", sa.Integer(), nullable=False),
        text("split"),
        sa.Column("original_width", sa.Integer(), nullable=False),
        sa.Column("original_height", sa.Integer(), nullable=False),
        text("source_name"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name="fk_dataset_version_rows_version_id_dataset_versions"
        ),
        sa.PrimaryKeyConstraint("version_id", "position", name="pk_dataset_version_rows"),
    )
    op.create_table(
        "generation_images",
        text("owner"),
        sa.Column("id", COUNT, nullable=False),
        text("generation_id"),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("seed", COUNT, nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        *texts("sha256", "blob_key"),
        sa.Column("bytes", COUNT, nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name="fk_generation_images_generation_id_generations"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_generation_images"),
        sa.UniqueConstraint("generation_id", "position", name="uq_generation_images_generation_id_position"),
    )
    op.create_index("ix_generation_images_image", "generation_images", ["owner", "sha256"], unique=False)
    op.create_table(
        "runs",
        *texts("id", "owner", "name", "status", "reason", "recipe"),
        sa.Column("overrides", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        text("config_digest"),
        sa.Column("plan", sa.JSON(), nullable=False),
        *texts("dataset_id", "version_id", "dataset_name"),
        sa.Column("dataset_version", sa.Integer(), nullable=False),
        *texts("dataset_digest", "base_id", "base_name", "base_identity", "shape"),
        sa.Column("seconds_per_step", sa.Double(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Double(), nullable=True),
        *texts("phase", "tracking", "device", nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("events_offset", COUNT, nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=True),
        *texts("log_key", "failure_code", "failure_message", "failure_hint", "failure_reference", nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name="fk_runs_base_id_bases"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_runs_dataset_id_datasets"),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_runs_version_id_dataset_versions"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_listed", "runs", ["owner", "created_at", "id"], unique=False)
    op.create_index("ix_runs_measured", "runs", ["owner", "shape", "finished_at"], unique=False)
    op.create_table(
        "run_events",
        *texts("owner", "run_id"),
        sa.Column("seq", sa.Integer(), nullable=False),
        text("type"),
        sa.Column("step", sa.Integer(), nullable=False),
        text("body"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_events_run_id_runs"),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_run_events"),
    )
    op.create_index("ix_run_events_type", "run_events", ["run_id", "type", "seq"], unique=False)
    op.create_table(
        "run_previews",
        text("owner"),
        sa.Column("id", COUNT, nullable=False),
        *texts("run_id", "file"),
        sa.Column("step", sa.Integer(), nullable=False),
        text("prompt"),
        sa.Column("seed", COUNT, nullable=False),
        *texts("sha256", "blob_key"),
        sa.Column("bytes", COUNT, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_previews_run_id_runs"),
        sa.PrimaryKeyConstraint("id", name="pk_run_previews"),
        sa.UniqueConstraint("run_id", "file", name="uq_run_previews_run_id_file"),
    )
    op.create_index("ix_run_previews_image", "run_previews", ["owner", "sha256"], unique=False)
    op.create_table(
        "weights",
        *texts("id", "owner", "name"),
        sa.Column("version", sa.Integer(), nullable=False),
        text("kind"),
        sa.Column("step", sa.Integer(), nullable=False),
        text("run_id", nullable=True),
        *texts("base_name", "base_identity"),
        *texts("dataset_digest", "dataset_name", nullable=True),
        sa.Column("dataset_version", sa.Integer(), nullable=True),
        text("trigger_word", nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("header", sa.JSON(), nullable=False),
        text("sha256"),
        sa.Column("bytes", COUNT, nullable=False),
        text("blob_key"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_weights_run_id_runs"),
        sa.PrimaryKeyConstraint("id", name="pk_weights"),
        sa.UniqueConstraint("owner", "name", "version", name="uq_weights_owner_name_version"),
        sa.UniqueConstraint("run_id", "kind", "step", name="uq_weights_run_id_kind_step"),
    )
    op.create_index("ix_weights_base_identity", "weights", ["base_identity"], unique=False)
    op.create_index("ix_weights_listed", "weights", ["owner", "created_at", "id"], unique=False)


def downgrade() -> None:
    """Take back."""
    for table in [
        "weights",
        "run_previews",
        "run_events",
        "runs",
        "generation_images",
        "dataset_version_rows",
        "dataset_images",
        "generations",
        "dataset_versions",
        "dataset_files",
        "workers",
        "weights_aliases",
        "jobs",
        "device_slots",
        "datasets",
        "bases",
        "api_keys",
    ]:
        op.drop_table(table)


def text(name: str, nullable: bool = False) -> sa.Column[str]:
    """A column of text."""
    return sa.Column(name, sa.Text(), nullable=nullable)


def texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    """Several columns of text."""
    return [text(name, nullable) for name in names]
