"""Fetching pictures from the addresses a dataset was offered: one `fetch` job takes some of them, a few at a time.

Each is fetched and stored outside any transaction and its fate written with the job's fence, so that a worker that
dies repeats only what was under way. What came is not looked into here: it is read as an upload is (ingest.py). Knows
nothing about how to fetch safely (fetch_client.py).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.blobs import upload_key
from catalog.datasets import fetches, ingests
from catalog.datasets.fetches import Due
from catalog.datasets.progress import CancelRequested
from catalog.jobs import Kind, Queue
from catalog.uploads.limits import DatasetLimits, filled
from worker.doorbell import Shift, new_reference
from worker.fetch_client import fetch
from worker.fetch_network import NotFetched, Resolve, look_up
from worker.lease import PAUSES_AFTER_FAILURE_S, Lease
from worker.reading import Interrupted
from worker.space import NoRoom, refuse_full_disk, waiting_when_full
from worker.station import Station

BATCH_URLS = 32
"""Addresses one job takes before those of other datasets have their turn."""

Write = Callable[[Session, jobs.Claim, int, str], None]
"""Writes why nothing came of an address."""

log = structlog.get_logger(__name__)


@dataclass
class _Room:
    """Bytes the dataset may still be sent."""

    most: int
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size_bytes: int) -> bool:
        with self.lock:
            if size_bytes > self.left:
                return False
            self.left -= size_bytes
            return True


@dataclass(frozen=True)
class Fetching:
    """One attempt at a fetch job and what it works with."""

    station: Station
    lease: Lease
    draining: threading.Event
    trusted: ssl.SSLContext
    resolve: Resolve
    room: _Room

    def check(self) -> None:
        """Called before each address.

        Raises:
            LeaseLost: another attempt has the job.
            Interrupted: the worker is draining.
            CancelRequested: the owner wants nothing more of it.
        """
        if self.lease.lost.is_set():
            raise jobs.LeaseLost(f"job {self.lease.claim.job_id}")
        if self.draining.is_set():
            raise Interrupted
        if self.lease.cancelled.is_set():
            raise CancelRequested


def work(station: Station, shift: Shift, trusted: ssl.SSLContext, resolve: Resolve = look_up) -> bool:
    """Claim one job and do it; False when there was none."""
    with station.database.session() as session:
        claims = jobs.claim(session, Queue.LIGHT, station.worker_id, station.settings.lease_s, kind=Kind.FETCH)
    if not claims:
        return False
    claim = claims[0]
    log.info("fetch.claimed", job=claim.job_id, fence=claim.fence, dataset=claim.subject_id)
    with Lease(station, claim) as lease:
        try:
            fetch_some(Fetching(station, lease, shift.draining, trusted, resolve, _room(station, claim)))
        except jobs.LeaseLost:
            log.warning("fetch.lease_lost", job=claim.job_id, fence=claim.fence)
        except (Interrupted, CancelRequested):
            _give_back(station, claim, failed=False)
        except Exception:  # one dataset's trouble must not stop the others; it is tried again, then given up
            log.exception("fetch.failed", job=claim.job_id, reference=new_reference())
            _give_back(station, claim, failed=True)
    return True


def fetch_some(fetching: Fetching) -> None:
    """Fetch from some of the addresses that are due, and leave the rest to another job.

    Raises:
        LeaseLost: another attempt has the job; nothing was written by this one since.
        Interrupted: the worker is draining.
        CancelRequested: the owner wants nothing more of it.
    """
    station, claim = fetching.station, fetching.lease.claim
    with station.database.session() as session:
        due = fetches.due(session, claim, BATCH_URLS)
    with ThreadPoolExecutor(station.settings.fetch_connections, thread_name_prefix="fetch") as pool:
        full = [one for one in pool.map(lambda one: _take_in(fetching, one), due) if one is not None]
    with station.database.session() as session:
        if full:
            log.warning("fetch.no_room", job=claim.job_id, dataset=claim.subject_id, why=full[0].why)
            fetches.wait(session, claim, [one.file_id for one in full], full[0].why)
        fetches.pass_on(session, claim)


@dataclass(frozen=True)
class _Waits:
    """An address whose picture the disk has no room for."""

    file_id: int
    why: str


def _room(station: Station, claim: jobs.Claim) -> _Room:
    settings = station.settings
    limits = DatasetLimits(settings.max_dataset_bytes, settings.max_dataset_images)
    with station.database.reading() as session:
        has = filled(session, claim.owner, claim.subject_id, limits)
    return _Room(limits.bytes, limits.bytes - has.bytes)


def _take_in(fetching: Fetching, one: Due) -> _Waits | None:
    """Fetch from one address and write what became of it."""
    fetching.check()
    station, claim = fetching.station, fetching.lease.claim
    try:
        content = fetch(one.url, station.settings.fetch_limits, fetching.trusted, fetching.resolve)
        _refuse_no_picture(content)
        if not fetching.room.take(len(content)):
            raise NotFetched(f"it would take the dataset over {fetching.room.most} bytes (PATINA_MAX_DATASET_BYTES)")
        key = _stored(station, claim.owner, content)
    except NotFetched as error:
        write = fetches.try_again if error.passing else fetches.reject
        _write_failure(fetching, one, str(error), write)
        return None
    except NoRoom as full:
        return _Waits(one.file_id, str(full))
    except Exception:  # whatever one server answers must not stop the others' pictures
        reference = new_reference()
        log.exception("fetch.unexpected", job=claim.job_id, file=one.file_id, reference=reference)
        reason = f"fetching it failed unexpectedly; quote reference {reference} to whoever runs the server"
        _write_failure(fetching, one, reason, fetches.reject)
        return None
    with station.database.session() as session:
        wanted = fetches.record(session, claim, one.file_id, key, len(content))
    if not wanted:
        station.blobs.delete(key)
    return None


def _stored(station: Station, owner: str, content: bytes) -> str:
    key = upload_key(owner)
    try:
        with waiting_when_full():
            refuse_full_disk(station, len(content))
            station.blobs.put_bytes(key, content)
    except NoRoom:
        raise
    except Exception as error:  # each kind of store has errors of its own, and none is the address's
        log.exception("fetch.not_stored", reference=new_reference())
        raise NotFetched("it came and could not be stored", passing=True) from error
    return key


def _write_failure(fetching: Fetching, one: Due, reason: str, write: Write) -> None:
    claim = fetching.lease.claim
    log.info("fetch.not_fetched", dataset=claim.subject_id, file=one.file_id, reason=reason)
    with fetching.station.database.session() as session:
        write(session, claim, one.file_id, reason)


def _refuse_no_picture(content: bytes) -> None:
    """What is plainly something else is told by a better name than a damaged picture; the decoder judges the rest.

    Raises:
        NotFetched: it is.
    """
    begins = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begins.startswith((b"<!doctype html", b"<html")):
        raise NotFetched("a web page is there and no picture; give the address of the picture itself")
    if begins.startswith(b"pk\x03\x04"):
        raise NotFetched("an archive is there; download it and upload the file, only pictures are fetched")


def _give_back(station: Station, claim: jobs.Claim, *, failed: bool) -> None:
    with station.database.session() as session:
        state = jobs.release(session, claim.job_id, claim.fence, failed=failed, pauses_s=PAUSES_AFTER_FAILURE_S)
        unread = ingests.after_job(session, claim.owner, claim.subject_id, state, claim.kind)
    for key in unread:
        station.blobs.delete(key)
