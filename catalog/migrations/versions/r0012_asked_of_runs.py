"""What a run's trainer is asked to do at its next step.

Revision r0012, after r0011. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0012"
down_revision = "r0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("runs", sa.Column("save_asked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("runs", sa.Column("preview_asked", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Take back."""
    op.drop_column("runs", "preview_asked")
    op.drop_column("runs", "save_asked")
