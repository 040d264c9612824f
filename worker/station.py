"""What every kind of worker stands on: settings, database, blobs, and its name in the workers' table.

Knows nothing about what the work is.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker.ring import ring
from broker.settings import BrokerSettings
from catalog.blobs import BlobStore, make_key
from catalog.db import Database
from catalog.sweep import give_up_dead_workers
from catalog.workers import service as workers
from contracts.failures import FailureCode, PatinaError
from worker.settings import WorkerSettings

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Station:
    """One worker process's means."""

    settings: WorkerSettings
    database: Database
    blobs: BlobStore
    role: str
    host: str
    worker_id: str

    def register(self) -> None:
        """Enter the workers' table."""
        with self.database.session() as session:
            workers.register_worker(session, self.worker_id, self.role, self.host, _boot_id(), os.getpid())

    def beat(self) -> None:
        """Say that the worker is alive; enters it again when somebody took it off the table."""
        with self.database.session() as session:
            known = workers.heartbeat_worker(session, self.worker_id)
        if not known:
            self.register()

    def store_answers(self) -> bool:
        """Whether the blob store takes a blob just now; it is tried with a tiny one, which the collector removes."""
        key = make_key("uploads", "is-there-anybody")
        try:
            self.blobs.put_bytes(key, b"?")
            return self.blobs.exists(key)
        except Exception:  # each kind of store has errors of its own
            log.exception("station.store_away")
            return False

    def close(self) -> None:
        """Leave in good order."""
        with self.database.session() as session:
            workers.forget_worker(session, self.worker_id)
        self.database.close()


def open_station(role: str, devices: Sequence[str] = (), settings: WorkerSettings | None = None) -> Station:
    """Open the home, the database (brought up to date) and the blobs, and enter the workers' table.

    Args:
        role: light, train or generate.
        devices: the host's devices, for a worker that leases them.
        settings: where things are; read from the environment when not given.

    Raises:
        PatinaError: the home cannot be written.
    """
    settings = settings or WorkerSettings()
    try:
        settings.runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PatinaError(
            FailureCode.HOME_UNUSABLE, f"{settings.home_dir} cannot be written: {error.strerror or error}."
        ) from error
    broker = BrokerSettings()
    database = Database(settings.database, on_commit=lambda queue: _ring(queue, broker))
    database.upgrade()
    host = socket.gethostname()
    station = Station(
        settings=settings,
        database=database,
        blobs=BlobStore(settings.storage),
        role=role,
        host=host,
        worker_id=f"{role}-{host}-{os.getpid()}-{secrets.token_hex(4)}",
    )
    _give_up_dead_workers(station)
    station.register()
    if devices:
        with database.session() as session:
            workers.register_host(session, host, [workers.Device(name) for name in devices])
    return station


def _ring(queue: str, broker: BrokerSettings) -> None:
    ring(queue, broker)


def _give_up_dead_workers(station: Station) -> None:
    if not BOOT_ID.is_file():
        return  # another machine may have the same name, and its processes cannot be seen from here
    with station.database.session() as session:
        dead = give_up_dead_workers(session, station.host, _boot_id(), _is_alive)
    if dead:
        log.warning("station.gave_up_dead_workers", workers=dead)


def _boot_id() -> str:
    """Names the table in which this process has its id: containers of one host, even of one name, have their own."""
    if not BOOT_ID.is_file():
        return "unknown"
    return f"{BOOT_ID.read_text().strip()} {PID_NAMESPACE.readlink()}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
