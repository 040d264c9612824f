"""The database: engine, session, clock and ids. Knows nothing about what the tables say.

SQLite (WAL) on one machine and Postgres on several run the same code. One ``with database.session()`` is one
transaction; services never commit. Rings (doorbells for workers) are collected in the session and go out only
after the commit, so that a worker never looks for a row that is not there yet.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util.exc import CommandError
from sqlalchemy import JSON, BigInteger, Connection, Double, Engine, Integer, MetaData, Text, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.sql.expression import FunctionElement

from contracts.failures import FailureCode, PatinaError

log = structlog.get_logger(__name__)

SHARED_OWNER = "shared"
"""Owner of what belongs to the whole instance: bases, workers, device slots. Every key may read these rows."""

LOCAL_OWNER = "local"
"""Owner of everything made without a key over loopback."""

BUSY_TIMEOUT_MS = 15_000
UPGRADE_LOCK = 0x7061_7469
"""Postgres advisory lock held while migrating, so that processes started together take turns."""

GIVEN_UP = ("40001", "40P01", "55P03")
"""Postgres's states of serialization failures, deadlocks and locks that were not given in time."""

Row = BigInteger().with_variant(Integer, "sqlite")
"""Type of counting primary keys; SQLite counts only in INTEGER columns."""


class db_now(FunctionElement[float]):
    """The database's clock as Unix seconds: leases compare with it and never with a worker's clock."""

    type = Double()
    inherit_cache = True


class Base(DeclarativeBase):
    """All tables; constraints have names, so that migrations can speak of them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text(), float: Double(), dict[str, Any]: JSON(), list[dict[str, Any]]: JSON()}  # noqa: RUF012 - SQLAlchemy reads it once

    owner: Mapped[str] = mapped_column(sort_order=-1)
    """Who may see the row; every query names it."""


class Listed(Base):
    """Tables whose rows are listed, newest first (catalog/paging.py)."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True, sort_order=-1)
    created_at: Mapped[float] = mapped_column(default=db_now())


class Database:
    """One database and its sessions.

    Args:
        url: ``sqlite:///path`` or ``postgresql://…``.
        on_commit: called with each queue rung during a transaction, once, after its commit.
    """

    def __init__(self, url: str, on_commit: Callable[[str], None] | None = None) -> None:
        self.url = _with_driver(make_url(url))
        self.engine = _engine(self.url)
        self._on_commit = on_commit
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A writing transaction: commits at the end, rolls back on an error, then rings the bells."""
        with self._sessions(info={"rings": {}}) as session:
            with session.begin():
                yield session
            self._ring(list(session.info["rings"]))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state and may not write; on SQLite it waits for no writer."""
        with self._sessions(info={"rings": {}}) as session:
            session.connection(execution_options={"patina_reading": True})
            # Closing takes the transaction back and, unlike a rollback, leaves the rows readable.
            yield session

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; safe to call from several processes at once.

        Raises:
            PatinaError: HOME_UNUSABLE: it is at a revision that is not known here.
        """
        if self.url.drivername.startswith("sqlite") and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
            try:
                command.upgrade(migrations_config(connection), "head")
            except CommandError as error:
                if not isinstance(error.__cause__, ResolutionError):
                    raise
                raise PatinaError(
                    FailureCode.HOME_UNUSABLE,
                    "This home was made by a newer Patina: its database has a form that is not known here.",
                    "Update Patina, or choose another home (PATINA_HOME) or database (PATINA_DATABASE_URL).",
                ) from error

    def close(self) -> None:
        """Close pooled connections."""
        self.engine.dispose()

    def _ring(self, queues: list[str]) -> None:
        if self._on_commit is None:
            return
        for queue in queues:
            try:
                self._on_commit(queue)
            except Exception as error:  # noqa: BLE001 - the work is committed; a lost ring costs one sweep
                log.warning("ring_failed", queue=queue, error=repr(error))


def ring(session: Session, queue: str) -> None:
    """Tell the workers of ``queue``, after the commit, that there is work."""
    session.info.setdefault("rings", {})[str(queue)] = True


def add_unique(session: Session, row: Base) -> bool:
    """Add a row; False, and nothing changed, when another transaction has just taken its unique name or number."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return False
    return True


def others_hold_it(error: BaseException) -> bool:
    """Whether the database gave up a transaction for what others do at the same time: later it can succeed."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(cause, "sqlstate", None) in GIVEN_UP


def new_id(prefix: str) -> str:
    """A random id such as ``run_0123456789abcdef``."""
    return f"{prefix}_{secrets.token_hex(8)}"


def migrations_config(connection: Connection) -> Config:
    """Alembic's configuration for this catalog, running on ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@compiles(db_now, "sqlite")
def _now_in_sqlite(element: db_now, compiler: Any, **kw: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; Python 3.11 images carry 3.40.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _now_in_postgres(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def _with_driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgres", "postgresql"} else url


def _engine(url: URL) -> Engine:
    engine = create_engine(url, pool_size=20, max_overflow=30, pool_pre_ping=url.drivername.startswith("postgresql"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "begin", _begin_postgres)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver opens no transaction of its own; _begin_sqlite does
    for pragma in ("journal_mode=WAL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reading = bool(connection.get_execution_options().get("patina_reading"))
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reading else 'OFF'}")
    # A transaction that reads first and writes later would fail when another writer came between: lock at once.
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _begin_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get("patina_reading"):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
