"""Masks, concepts and repeats of images, and notes in the ledger.

Revision r0003, after r0002. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

TEXTS = {
    "dataset_files": ("concept", "note"),
    "dataset_images": ("concept", "mask", "mask_key"),
    "dataset_version_rows": ("mask", "mask_key"),
}


def upgrade() -> None:
    """Apply."""
    for table, names in TEXTS.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Text(), nullable=True))
    op.add_column("dataset_files", sa.Column("repeats", sa.Integer(), nullable=True))
    op.add_column("dataset_images", sa.Column("repeats", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    """Take back."""
    for table, names in TEXTS.items():
        for name in names:
            op.drop_column(table, name)
    op.drop_column("dataset_files", "repeats")
    op.drop_column("dataset_images", "repeats")
