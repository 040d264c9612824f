"""What people change in a dataset: captions, removed images, marked splits; and what images look like.

Revision r0002, after r0001. Never edited once released.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

CHANGES = "dataset_edit_changes"
TEXT, INTEGER = sa.Text(), sa.Integer()
NUMBER: sa.Double[float] = sa.Double()
COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OF_IMAGES: dict[str, Any] = {
    "edited_caption": TEXT,
    "split_mark": TEXT,
    "removed_at": NUMBER,
    "likeness": TEXT,
    "near_image": TEXT,
}


def upgrade() -> None:
    """Apply."""
    op.add_column("datasets", sa.Column("captions_revision", INTEGER, nullable=False, server_default="0"))
    for name, kind in OF_IMAGES.items():
        op.add_column("dataset_images", sa.Column(name, kind, nullable=True))
    op.create_table(
        "dataset_edits",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("id", COUNT, nullable=False),
        sa.Column("dataset_id", TEXT, nullable=False),
        sa.Column("action", TEXT, nullable=False),
        sa.Column("made_at", NUMBER, nullable=False),
        sa.Column("undone_at", NUMBER, nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_edits_dataset_id_datasets"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_edits"),
    )
    op.create_index("ix_dataset_edits_dataset", "dataset_edits", ["dataset_id", "id"])
    op.create_table(
        CHANGES,
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("edit_id", COUNT, nullable=False),
        sa.Column("image", TEXT, nullable=False),
        sa.Column("before", TEXT, nullable=True),
        sa.Column("after", TEXT, nullable=True),
        sa.ForeignKeyConstraint(["edit_id"], ["dataset_edits.id"], name=f"fk_{CHANGES}_edit_id_dataset_edits"),
        sa.PrimaryKeyConstraint("edit_id", "image", name=f"pk_{CHANGES}"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table(CHANGES)
    op.drop_table("dataset_edits")
    for name in OF_IMAGES:
        op.drop_column("dataset_images", name)
    op.drop_column("datasets", "captions_revision")
