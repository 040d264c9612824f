"""One attempt at reading a dataset's files: what it works with, what it says meanwhile, and what makes it stop.

Knows nothing about what is in files.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from catalog import jobs
from catalog.datasets import progress
from catalog.datasets.progress import CancelRequested
from catalog.datasets.room import Room
from contracts.ingest import IngestPhase
from worker.decode import Decoder
from worker.lease import Lease
from worker.station import Station

TELL_EVERY_S = 0.5
"""At most so often is said what is being done, and heard whether to stop."""


class Interrupted(Exception):
    """The worker is draining; the rest is for the next attempt."""


@dataclass
class Reading:
    """An attempt at an ingest job."""

    station: Station
    decoder: Decoder
    lease: Lease
    draining: threading.Event
    room: Room
    careful: bool = False
    """Something failed before: one file at a time, so that it is known which one is at fault."""
    told_at: float = field(default=0.0)
    """When it last said what it does, by the process's own clock."""

    def check(self) -> None:
        """Called before each file and each member of an archive.

        Raises:
            LeaseLost: another attempt has the job.
            Interrupted: the worker is draining.
            CancelRequested: the owner wants nothing more of it read.
        """
        if self.lease.lost.is_set():
            raise jobs.LeaseLost(f"job {self.lease.claim.job_id}")
        if self.draining.is_set():
            raise Interrupted
        if self.lease.cancelled.is_set():
            raise CancelRequested

    def doing(self, phase: IngestPhase, file: str, done: int | None = None, total: int | None = None) -> None:
        """``check``, and say what is looked into next, unless it was said just now.

        Raises:
            LeaseLost, Interrupted, CancelRequested: as of ``check``.
        """
        self.check()
        if time.monotonic() - self.told_at >= TELL_EVERY_S:
            self.tell(phase, file, done, total)

    def tell(
        self, phase: IngestPhase, file: str | None = None, done: int | None = None, total: int | None = None
    ) -> None:
        """Say what is being done.

        Raises:
            LeaseLost: another attempt has the job.
            CancelRequested: the owner wants nothing more of it read.
        """
        with self.station.database.session() as session:
            progress.tell(session, self.lease.claim, phase, file, done, total)
        self.told_at = time.monotonic()
