"""Several dataset versions behind a run and its weights; versions and datasets that were removed but stay named.

Revision r0008, after r0007. Never edited once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"
branch_labels = None
depends_on = None

TEXT = sa.Text()
MADE_OF = (("runs", "run"), ("weights", "weights"))


def upgrade() -> None:
    """Apply, and give what there is its one version."""
    op.add_column("datasets", sa.Column("removed_at", sa.Double(), nullable=True))
    op.add_column("dataset_versions", sa.Column("withdrawn_at", sa.Double(), nullable=True))
    op.create_table(
        "weights_numbers",
        *(sa.Column(name, TEXT, nullable=False) for name in ("owner", "name")),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_weights_numbers"),
    )
    for table, noun in MADE_OF:
        links, key = f"{noun}_versions", f"{noun}_id"
        op.add_column(table, sa.Column("datasets", sa.JSON(), nullable=False, server_default="[]"))
        op.create_table(
            links,
            *(sa.Column(name, TEXT, nullable=False) for name in ("owner", key, "version_id")),
            sa.ForeignKeyConstraint([key], [f"{table}.id"], name=f"fk_{links}_{key}_{table}"),
            sa.ForeignKeyConstraint(
                ["version_id"], ["dataset_versions.id"], name=f"fk_{links}_version_id_dataset_versions"
            ),
            sa.PrimaryKeyConstraint(key, "version_id", name=f"pk_{links}"),
        )
        op.create_index(f"ix_{links}_version_id", links, ["version_id"])
    _link_what_there_is()


def downgrade() -> None:
    """Take back."""
    for table, noun in MADE_OF:
        op.drop_index(f"ix_{noun}_versions_version_id", f"{noun}_versions")
        op.drop_table(f"{noun}_versions")
        op.drop_column(table, "datasets")
    op.drop_table("weights_numbers")
    op.drop_column("dataset_versions", "withdrawn_at")
    op.drop_column("datasets", "removed_at")


def _link_what_there_is() -> None:
    text, json = sa.String, sa.JSON
    runs = sa.table(
        "runs",
        *(sa.column(name, text) for name in ("id", "owner", "dataset_id", "version_id", "dataset_name")),
        sa.column("dataset_version", sa.Integer),
        sa.column("dataset_digest", text),
        sa.column("datasets", json),
    )
    weights = sa.table(
        "weights", *(sa.column(name, text) for name in ("id", "owner", "run_id")), sa.column("datasets", json)
    )
    links = {
        noun: sa.table(f"{noun}_versions", *(sa.column(name, text) for name in ("owner", f"{noun}_id", "version_id")))
        for _, noun in MADE_OF
    }
    connection = op.get_bind()
    for run in connection.execute(sa.select(runs)).all():
        made_of = [
            {
                "id": run.dataset_id,
                "name": run.dataset_name,
                "version": run.dataset_version,
                "digest": run.dataset_digest,
                "weight": 1.0,
            }
        ]
        connection.execute(runs.update().where(runs.c.id == run.id).values(datasets=made_of))
        connection.execute(weights.update().where(weights.c.run_id == run.id).values(datasets=made_of))
        linked = {"owner": run.owner, "version_id": run.version_id}
        connection.execute(links["run"].insert().values(run_id=run.id, **linked))
        for row in connection.execute(sa.select(weights.c.id).where(weights.c.run_id == run.id)).all():
            connection.execute(links["weights"].insert().values(weights_id=row.id, **linked))
