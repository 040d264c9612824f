"""Runs that were removed, for workers that have their directories; versions found by an image they hold.

Revision r0009, after r0008. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "removed_runs",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_removed_runs"),
    )
    op.create_index("ix_dataset_version_rows_image", "dataset_version_rows", ["owner", "image"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_dataset_version_rows_image", "dataset_version_rows")
    op.drop_table("removed_runs")
