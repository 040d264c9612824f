"""The schema the migrations make is the schema the models describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Column, MetaData, Table, Text, inspect, select

from catalog.db import Base, Database, migrations_config
from catalog.jobs import Job, JobState
from catalog.registry.models import Weights, WeightsVersion
from catalog.runs.models import Run, RunVersion
from contracts.failures import FailureCode, PatinaError


class TestMigrations:
    def test_and_models_agree(self, database: Database) -> None:
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []

    def test_a_model_without_a_migration_would_be_noticed(self, database: Database) -> None:
        extra = Table("forgotten", Base.metadata, Column("owner", Base.metadata.tables["jobs"].c.owner.type))
        try:
            with database.engine.connect() as connection:
                assert compare_metadata(MigrationContext.configure(connection), Base.metadata) != []
        finally:
            Base.metadata.remove(extra)

    def test_upgrading_twice_changes_nothing(self, database: Database) -> None:
        database.upgrade()
        with database.engine.connect() as connection:
            newest = ScriptDirectory.from_config(migrations_config(connection)).get_current_head()
            assert MigrationContext.configure(connection).get_current_heads() == (newest,)

    def test_a_database_of_a_newer_patina_is_refused_and_left_as_it_is(self, database: Database) -> None:
        version = Table("alembic_version", MetaData(), Column("version_num", Text))
        with database.engine.begin() as connection:
            known = connection.scalar(select(version.c.version_num))
            connection.execute(version.update().values(version_num="r9999"))
        try:
            with pytest.raises(PatinaError, match="This home was made by a newer Patina") as refused:
                database.upgrade()
            assert refused.value.code is FailureCode.HOME_UNUSABLE
        finally:
            with database.engine.begin() as connection:
                assert connection.scalar(select(version.c.version_num)) == "r9999"
                connection.execute(version.update().values(version_num=known))

    def test_can_be_taken_back_and_done_again(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'made' / 'on' / 'the' / 'way.db'}")
        database.upgrade()
        with database.engine.begin() as connection:
            command.downgrade(migrations_config(connection), "base")
        assert inspect(database.engine).get_table_names() == ["alembic_version"]
        database.upgrade()
        assert "jobs" in inspect(database.engine).get_table_names()

    def test_runs_and_weights_of_before_are_linked_to_the_version_they_had(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'patina.db'}")
        database.upgrade()
        with database.engine.begin() as connection:
            command.downgrade(migrations_config(connection), "r0007")
            before = MetaData()
            before.reflect(connection)
            known = {"dataset_id": "ds", "version_id": "v", "run_id": "r", "base_id": "b", "version": 1, "number": 1}
            known |= {"dataset_name": "style", "dataset_version": 1, "dataset_digest": "d"}
            for table, key in {
                "datasets": "ds",
                "dataset_versions": "v",
                "bases": "b",
                "runs": "r",
                "weights": "w",
            }.items():
                row = {
                    column.name: known.get(column.name, key if column.name == "id" else _anything(column))
                    for column in before.tables[table].columns
                    if not column.nullable or column.name in known
                }
                connection.execute(before.tables[table].insert().values(row))
        database.upgrade()
        fed = [{"id": "ds", "name": "style", "version": 1, "digest": "d", "weight": 1.0}]
        with database.reading() as session:
            assert session.scalar(select(Run.datasets)) == session.scalar(select(Weights.datasets)) == fed
            assert session.execute(select(RunVersion.run_id, RunVersion.version_id)).all() == [("r", "v")]
            assert session.execute(select(WeightsVersion.weights_id, WeightsVersion.version_id)).all() == [("w", "v")]

    def test_of_several_unclaimed_jobs_of_one_subject_the_oldest_stays(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'patina.db'}")
        database.upgrade()
        with database.engine.begin() as connection:
            command.downgrade(migrations_config(connection), "r0010")
            job = {"owner": "ada", "queue": "light", "kind": "ingest"}
            rows = [{**job, "id": number, "subject_id": subject} for number, subject in enumerate("aaba", 1)]
            connection.execute(Job.__table__.insert(), rows)  # type: ignore[attr-defined] # a Table
        database.upgrade()
        with database.reading() as session:
            states = list(session.scalars(select(Job.state).order_by(Job.id)))
        assert states == [JobState.QUEUED, JobState.CANCELLED, JobState.QUEUED, JobState.CANCELLED]

    def test_one_line_leads_to_one_head(self) -> None:
        found = list((Path(__file__).parents[2] / "catalog" / "migrations" / "versions").glob("*.py"))
        assert found
        assert all("down_revision" in path.read_text() for path in found)


def _anything(column: Column[Any]) -> Any:
    if isinstance(column.type, JSON):
        return {}
    return "x" if isinstance(column.type, Text) else 0
