"""The light worker, `celery -A worker.light worker -P threads`: reads uploads, fetches, sweeps. Never loads torch."""

from __future__ import annotations

import structlog

from catalog import jobs
from catalog.datasets import ingests
from catalog.jobs import Kind, Queue
from worker import fetch
from worker.decode import Decoder
from worker.doorbell import Duty, Shift, doorbell, new_reference
from worker.fetch_client import trust
from worker.ingest import read_uploads
from worker.lease import PAUSES_AFTER_FAILURE_S, Lease
from worker.reading import Interrupted
from worker.space import NoRoom
from worker.station import Station, open_station
from worker.sweep import collect, sweep

log = structlog.get_logger(__name__)


class LightWork:
    """The duties of a light worker, from its start to its end."""

    def __init__(self) -> None:
        self._station: Station | None = None
        self._decoder = Decoder()

    def open(self, shift: Shift) -> list[Duty]:
        """Open the station; the duties are done in threads of their own."""
        station = self._station = open_station("light")
        every_s = station.settings.sweep_s
        trusted = trust()
        return [
            Duty("light", lambda: work(station, self._decoder, shift), every_s),
            # In a thread of its own: however slow the servers are, uploads are read meanwhile.
            Duty("fetch", lambda: fetch.work(station, shift, trusted), every_s),
            Duty("collect", lambda: collect(station), station.settings.collect_s, rings=False),
            Duty("sweep", lambda: sweep(station), every_s, rings=False),
        ]

    def close(self) -> None:
        """Leave in good order."""
        self._decoder.close()
        if self._station is not None:
            self._station.close()


def work(station: Station, decoder: Decoder, shift: Shift) -> bool:
    """Claim one job and do it; False when there was none, or no room for it."""
    with station.database.session() as session:
        claims = jobs.claim(session, Queue.LIGHT, station.worker_id, station.settings.lease_s, kind=Kind.INGEST)
    if not claims:
        return False
    claim = claims[0]
    log.info("ingest.claimed", job=claim.job_id, fence=claim.fence, dataset=claim.subject_id)
    with Lease(station, claim) as lease:
        try:
            read_uploads(station, decoder, lease, shift.draining)
        except jobs.LeaseLost:
            log.warning("ingest.lease_lost", job=claim.job_id, fence=claim.fence)
        except Interrupted:
            _give_back(station, claim, failed=False)
        except NoRoom as full:
            log.warning("ingest.no_room", job=claim.job_id, dataset=claim.subject_id, why=str(full))
            with station.database.session() as session:
                jobs.postpone(session, claim.job_id, claim.fence)
            return False  # others come first, and there is no hurry: the disk does not empty itself
        except Exception:  # one dataset's trouble must not stop the others; it is tried again, then given up
            log.exception("ingest.failed", job=claim.job_id, reference=new_reference())
            if not station.store_answers():
                with station.database.session() as session:
                    jobs.postpone(session, claim.job_id, claim.fence)
                return False  # no file is at fault, however long it takes
            _give_back(station, claim, failed=True)
    return True


def _give_back(station: Station, claim: jobs.Claim, *, failed: bool) -> None:
    with station.database.session() as session:
        state = jobs.release(session, claim.job_id, claim.fence, failed=failed, pauses_s=PAUSES_AFTER_FAILURE_S)
        unread = ingests.after_job(session, claim.owner, claim.subject_id, state, claim.kind)
    for key in unread:
        station.blobs.delete(key)


_work = LightWork()
app = doorbell(Queue.LIGHT, _work.open, _work.close)
