"""Addresses pictures are fetched from, and jobs that wait before they are tried again.

Revision r0006, after r0005. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None

TEXT = sa.Text()
MOMENT: sa.Double[float] = sa.Double()
COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("not_before", MOMENT, nullable=True))
    op.create_table(
        "dataset_fetches",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("file_id", COUNT, nullable=False),
        sa.Column("dataset_id", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["dataset_files.id"], name="fk_dataset_fetches_file_id_dataset_files", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_fetches_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("file_id", name="pk_dataset_fetches"),
    )
    op.create_index("ix_dataset_fetches_due", "dataset_fetches", ["dataset_id", "not_before"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("dataset_fetches")
    op.drop_column("jobs", "not_before")
