"""Transactions, rings and the database's clock."""

from __future__ import annotations

import sqlite3
import time

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError

from catalog.db import Base, Database, Listed, db_now, new_id, others_hold_it, ring
from catalog.keys.models import ApiKey


def _key(key_id: str) -> ApiKey:
    return ApiKey(id=key_id, owner="ada", name="n", secret_sha256="x")


def _add_and_fail(database: Database) -> None:
    with database.session() as session:
        session.add(_key("k1"))
        session.flush()
        ring(session, "train")
        raise RuntimeError("on purpose")


class TestSession:
    def test_commits_at_the_end(self, database: Database) -> None:
        with database.session() as session:
            session.add(_key("k1"))
        with database.reading() as session:
            assert session.get(ApiKey, "k1") is not None

    def test_leaves_nothing_behind_after_an_error(self, database: Database) -> None:
        with pytest.raises(RuntimeError, match="on purpose"):
            _add_and_fail(database)
        with database.reading() as session:
            assert session.get(ApiKey, "k1") is None

    def test_rows_can_be_read_after_it_has_ended(self, database: Database) -> None:
        with database.session() as session:
            key = _key("k1")
            session.add(key)
        assert key.name == "n"


class TestOthersHoldIt:
    def test_is_said_of_a_lock_that_sqlite_did_not_give(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        event.listen(database.engine, "checkout", lambda raw, *_: raw.execute("PRAGMA busy_timeout=0"))
        with database.session() as holder:
            holder.connection()
            with pytest.raises(DBAPIError) as refused, database.session() as session:
                session.connection()
        database.close()
        assert others_hold_it(refused.value)

    def test_is_said_of_a_lock_that_postgres_did_not_give(self, postgres_database: Database) -> None:
        with postgres_database.session() as holder:
            holder.execute(text("LOCK TABLE api_keys IN EXCLUSIVE MODE"))
            with pytest.raises(DBAPIError) as refused, postgres_database.session() as session:
                session.execute(text("LOCK TABLE api_keys IN EXCLUSIVE MODE NOWAIT"))
        assert others_hold_it(refused.value)

    def test_is_not_said_of_what_is_wrong_whoever_holds_it(self, database: Database) -> None:
        with pytest.raises(DBAPIError) as refused, database.session() as session:
            session.execute(text("SELECT * FROM nowhere"))
        assert not others_hold_it(refused.value)


class TestReading:
    def test_rows_can_be_read_after_it_has_ended(self, database: Database) -> None:
        with database.session() as session:
            session.add(_key("k1"))
        with database.reading() as session:
            key = session.get(ApiKey, "k1")
        assert key is not None
        assert key.name == "n"

    def test_refuses_to_write(self, database: Database) -> None:
        with database.reading() as session:
            session.add(_key("k1"))
            with pytest.raises(DBAPIError):
                session.flush()
        with database.session() as session:
            session.add(_key("k2"))  # the connection that refused is as good as new

    def test_sees_one_state_while_others_write(self, database: Database) -> None:
        with database.reading() as reader:
            assert reader.scalars(select(ApiKey)).all() == []
            with database.session() as writer:
                writer.add(_key("k1"))
            assert reader.scalars(select(ApiKey)).all() == []


class TestRing:
    def test_goes_out_once_for_each_queue_and_after_the_commit(self, database: Database, rung: list[str]) -> None:
        with database.session() as session:
            ring(session, "train")
            ring(session, "light")
            ring(session, "train")
            assert rung == []
        assert rung == ["train", "light"]

    def test_is_dropped_with_the_transaction(self, database: Database, rung: list[str]) -> None:
        with pytest.raises(RuntimeError, match="on purpose"):
            _add_and_fail(database)
        assert rung == []

    def test_that_fails_does_not_undo_the_commit(self, sqlite_url: str) -> None:
        def broken(queue: str) -> None:
            raise ConnectionError(queue)

        database = Database(sqlite_url, broken)
        with database.session() as session:
            session.add(_key("k1"))
            ring(session, "train")
        with database.reading() as session:
            assert session.get(ApiKey, "k1") is not None


class TestClock:
    def test_is_unix_time_with_fractions(self, database: Database) -> None:
        with database.reading() as session:
            seen = session.scalar(select(db_now()))
        assert seen is not None
        assert abs(seen - time.time()) < 60
        assert isinstance(seen, float)


class TestTables:
    def test_every_row_has_an_owner(self) -> None:
        tables = Base.metadata.tables
        assert len(tables) > 10
        assert [name for name, table in tables.items() if "owner" not in table.c or table.c.owner.nullable] == []

    def test_listed_tables_have_an_index_that_gives_their_order(self) -> None:
        listed = [table for table in Listed.__subclasses__() if table.__tablename__ != "bases"]
        assert len(listed) == 5
        for model in listed:
            indexes = [[column.name for column in index.columns] for index in model.__table__.indexes]
            assert ["owner", "created_at", "id"] in indexes, model


class TestSqlite:
    def test_uses_a_write_ahead_log_and_checks_references(self, sqlite_url: str) -> None:
        with Database(sqlite_url).reading() as session:
            assert session.scalar(text("PRAGMA journal_mode")) == "wal"
            assert session.scalar(text("PRAGMA foreign_keys")) == 1
            assert session.scalar(text("PRAGMA synchronous")) == 2

    def test_a_writing_transaction_has_the_lock_from_its_first_word_and_a_reading_one_never(
        self, sqlite_url: str
    ) -> None:
        database = Database(sqlite_url)
        other = sqlite3.connect(database.url.database or "", timeout=0, isolation_level=None)
        with database.session() as session:
            session.scalars(select(ApiKey)).all()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        with database.reading() as session:
            session.scalars(select(ApiKey)).all()
            other.execute("BEGIN IMMEDIATE")
        other.close()


class TestNewId:
    def test_is_a_prefix_and_sixteen_hex_digits(self) -> None:
        prefix, _, digits = new_id("run").partition("_")
        assert prefix == "run"
        assert len(digits) == 16
        int(digits, 16)
