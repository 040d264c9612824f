"""Uploads in several requests, their pieces, and what was received for which dataset.

Revision r0004, after r0003. Never edited once released.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

TEXT = sa.Text()
NUMBER: sa.Double[float] = sa.Double()
COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "uploads",
        *columns(TEXT, "id", "owner", "dataset_id", "filename"),
        sa.Column("sha256", TEXT, nullable=True),
        *columns(TEXT, "metadata_header"),
        *columns(COUNT, "length_bytes", "received_bytes"),
        *columns(NUMBER, "expires_at", "created_at"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_uploads_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_listed", "uploads", ["owner", "created_at", "id"])
    op.create_index("ix_uploads_expires", "uploads", ["expires_at"])
    op.create_index("ix_uploads_dataset", "uploads", ["dataset_id"])
    op.create_table(
        "upload_pieces",
        *columns(TEXT, "owner", "upload_id"),
        *columns(COUNT, "start", "bytes"),
        *columns(TEXT, "blob_key"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_upload_pieces_upload_id_uploads"),
        sa.PrimaryKeyConstraint("upload_id", "start", name="pk_upload_pieces"),
    )
    op.create_table(
        "received_files",
        *columns(TEXT, "owner"),
        *columns(COUNT, "file_id"),
        *columns(TEXT, "dataset_id", "filename", "sha256"),
        sa.ForeignKeyConstraint(["file_id"], ["dataset_files.id"], name="fk_received_files_file_id_dataset_files"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_received_files_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("file_id", name="pk_received_files"),
    )
    op.create_index("ix_received_files_content", "received_files", ["owner", "dataset_id", "sha256"])


def downgrade() -> None:
    """Take back."""
    for table in ("received_files", "upload_pieces", "uploads"):
        op.drop_table(table)


def columns(kind: Any, *names: str) -> list[sa.Column[Any]]:
    """Columns of one type that are never null."""
    return [sa.Column(name, kind, nullable=False) for name in names]
