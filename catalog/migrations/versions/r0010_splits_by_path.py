"""Splits that the paths of uploaded pictures put them in.

Revision r0010, after r0009. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("dataset_images", sa.Column("path_split", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("dataset_images", "path_split")
