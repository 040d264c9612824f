"""Of the jobs nobody has claimed yet, a subject has one of each kind; where it had several, the oldest stays.

Revision r0011, after r0010. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0011"
down_revision = "r0010"
branch_labels = None
depends_on = None

FRESH = sa.text("state = 'queued' AND fence = 0")


def upgrade() -> None:
    """Apply."""
    op.execute(
        "UPDATE jobs SET state = 'cancelled', finished_at = created_at WHERE state = 'queued' AND fence = 0 AND EXISTS "
        "(SELECT 1 FROM jobs AS older WHERE older.owner = jobs.owner AND older.kind = jobs.kind AND "
        "older.subject_id = jobs.subject_id AND older.state = 'queued' AND older.fence = 0 AND older.id < jobs.id)"
    )
    columns = ["owner", "kind", "subject_id"]
    op.create_index("ix_jobs_fresh", "jobs", columns, unique=True, sqlite_where=FRESH, postgresql_where=FRESH)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_jobs_fresh", "jobs")
