"""The schema the migrations make is the schema the models describe."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Table, inspect

from catalog.db import Base, Database, migrations_config


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

    def test_can_be_taken_back_and_done_again(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'made' / 'on' / 'the' / 'way.db'}")
        database.upgrade()
        with database.engine.begin() as connection:
            command.downgrade(migrations_config(connection), "base")
        assert inspect(database.engine).get_table_names() == ["alembic_version"]
        database.upgrade()
        assert "jobs" in inspect(database.engine).get_table_names()

    def test_one_line_leads_to_one_head(self) -> None:
        found = list((Path(__file__).parents[2] / "catalog" / "migrations" / "versions").glob("*.py"))
        assert found
        assert all("down_revision" in path.read_text() for path in found)
