"""Keeping a claimed job: heartbeats in a thread beside the work, and what they hear.

Knows nothing about what the work is.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from catalog import jobs
from worker.station import Station

PAUSES_AFTER_FAILURE_S = (5.0, 30.0)
"""How long nobody tries a job again after its first failure, its second: what it ran into may pass."""

log = structlog.get_logger(__name__)


class Lease:
    """A job that is held while the ``with`` block runs.

    ``lost`` is set when another attempt may have the job: stop the work and write nothing. ``cancelled`` is set
    when its owner asked for the end of it.
    """

    def __init__(self, station: Station, claim: jobs.Claim) -> None:
        self.claim = claim
        self.lost = threading.Event()
        self.cancelled = threading.Event()
        self.changed = threading.Event()
        """Set when either of the two is: what a worker that only waits can wait for."""
        self._station = station
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        settings = self._station.settings
        safe_until = time.monotonic() + settings.lease_s
        while True:
            asked_at = time.monotonic()
            try:
                if not self._beat():
                    return
                safe_until = asked_at + settings.lease_s
            except SQLAlchemyError as error:
                log.warning("lease.heartbeat_failed", job=self.claim.job_id, error=type(error).__name__)
                if time.monotonic() > safe_until:
                    self._lose()
                    return
            if self._over.wait(settings.heartbeat_every_s):
                return

    def _beat(self) -> bool:
        with self._station.database.session() as session:
            answer = jobs.heartbeat(session, self.claim.job_id, self.claim.fence, self._station.settings.lease_s)
        if answer is None:
            self._lose()
            return False
        if answer.cancel_requested and not self.cancelled.is_set():
            self.cancelled.set()
            self.changed.set()
        return True

    def _lose(self) -> None:
        # A job that has just been finished is not held any more either; then nobody is listening.
        if not self._over.is_set():
            log.warning("lease.lost", job=self.claim.job_id, fence=self.claim.fence)
        self.lost.set()
        self.changed.set()
