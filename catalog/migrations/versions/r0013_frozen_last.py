"""Which version a dataset had last.

Revision r0013, after r0012. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0013"
down_revision = "r0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("dataset_versions", sa.Column("frozen_at", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE dataset_versions SET frozen_at = created_at")


def downgrade() -> None:
    """Take back."""
    op.drop_column("dataset_versions", "frozen_at")
