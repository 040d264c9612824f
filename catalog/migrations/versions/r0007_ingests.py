"""How far the reading of a dataset's files is, and which files belong to which reading.

Revision r0007, after r0006. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None

INDEX = "ix_dataset_files_ingest"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "dataset_ingests",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("file_done", sa.Integer(), nullable=True),
        sa.Column("file_total", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("began_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name="fk_dataset_ingests_dataset_id_datasets", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dataset_id", name="pk_dataset_ingests"),
    )
    op.add_column("dataset_files", sa.Column("ingest", sa.Integer(), nullable=True))
    op.create_index(INDEX, "dataset_files", ["owner", "dataset_id", "ingest", "fate", "bytes"])


def downgrade() -> None:
    """Take back."""
    op.drop_index(INDEX, "dataset_files")
    op.drop_column("dataset_files", "ingest")
    op.drop_table("dataset_ingests")
