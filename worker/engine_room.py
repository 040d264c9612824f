"""The engine of a generate worker and the device it stands on: loaded when needed, given back when a run waits.

Knows nothing about jobs or pictures.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog
import torch
from sqlalchemy.orm import Session

from catalog.workers import service as workers
from catalog.workers.service import EngineSlot
from inference.engine import Engine
from worker.station import Station

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}

log = structlog.get_logger(__name__)


class EngineRoom:
    """At most one engine, on a device leased from the table runs lease theirs from.

    One thread uses the engine; another prolongs the lease. ``lock`` is taken before any transaction in which
    either changes the lease, so that one never takes a device the other has just given back.
    """

    def __init__(self, station: Station) -> None:
        self.lock = threading.Lock()
        self.lost = threading.Event()
        """The device's lease ran out: leave it before anything else is generated."""
        self._station = station
        self._slot: EngineSlot | None = None
        self._engine: Engine | None = None
        self._loaded: tuple[str, str] | None = None
        self._used_at = time.monotonic()

    def take_device(self, session: Session) -> bool:
        """Lease a device within the caller's transaction (holding ``lock``); False when runs hold them all.

        After a rollback, call ``forget_device``.
        """
        if self.lost.is_set():
            return False
        if self._slot is None:
            self._slot = self._lease(session)
        return self._slot is not None

    def forget_device(self) -> None:
        """The transaction that leased it was rolled back; an engine that is loaded has had its lease before."""
        if self._engine is None:
            self._slot = None

    def engine_for(self, base_source: str, base_identity: str) -> Engine:
        """The engine of this base, loaded if it is not; another base's is closed first.

        Raises:
            PatinaError: the base cannot be read, or is another by now.
        """
        assert self._slot is not None, "a device is taken before an engine is loaded"
        self._used_at = time.monotonic()
        if self._engine is not None and self._loaded == (base_source, base_identity):
            return self._engine
        self._close_engine()
        started = time.monotonic()
        self._engine = Engine(
            Path(base_source).expanduser().resolve(),
            device=self._slot.device,
            dtype=DTYPES[self._station.settings.precision],
            adapter_cache_bytes=self._station.settings.adapter_cache_bytes,
            base_identity=base_identity,
            identity_cache=self._station.settings.cache_dir / "identities",
            max_pictures=self._station.settings.batch,
        )
        self._loaded = (base_source, base_identity)
        log.info("engine.loaded", base=base_source, device=self._slot.device, seconds=time.monotonic() - started)
        return self._engine

    def used(self) -> None:
        """Something was generated just now."""
        self._used_at = time.monotonic()

    def rest(self) -> None:
        """There is no work: give the device back when a run waits for it, or when it is not ours any more."""
        idle_s = time.monotonic() - self._used_at
        wanted = self._slot is not None and self._slot.unload_requested
        if self.lost.is_set() or (wanted and idle_s >= self._station.settings.idle_unload_s):
            self.leave()

    def leave(self) -> None:
        """Close the engine and give the device back."""
        self._close_engine()
        with self.lock:
            if self._slot is not None or self.lost.is_set():
                with self._station.database.session() as session:
                    workers.release_engine_slot(session, self._station.host, self._station.worker_id)
                log.info("engine.left_device", device=self._slot.device if self._slot else None)
            self._slot = None
            self.lost.clear()

    def renew(self) -> bool:
        """Prolong the device's lease, and hear whether a run waits for it; False: there is never more to do."""
        with self.lock:
            if self._slot is None or self.lost.is_set():
                return False
            with self._station.database.session() as session:
                slot = self._lease(session)
            if slot is None or slot.index != self._slot.index:
                log.warning("engine.lease_lost", device=self._slot.device)
                self.lost.set()
            else:
                self._slot = slot
        return False

    def _lease(self, session: Session) -> EngineSlot | None:
        station = self._station
        return workers.lease_engine_slot(session, station.host, station.worker_id, station.settings.lease_s)

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            log.info("engine.closed", base=self._loaded[0] if self._loaded else None)
        self._engine = self._loaded = None
