"""What every worker does every few seconds, whatever its queue: say it is alive, take up what was
dropped, and clear away what nobody goes on with.

Each step is a guarded write, so any number of workers may do it at once. Knows nothing about the work.
"""

from __future__ import annotations

import structlog

from catalog.storage import collect as collect_blobs
from catalog.sweep import sweep as sweep_catalog
from catalog.uploads import service as uploads
from worker.station import Station

log = structlog.get_logger(__name__)


def collect(station: Station) -> bool:
    """Remove blobs nothing refers to; False as well."""
    gone = collect_blobs(station.database, station.blobs, station.settings.blob_grace_s)
    if gone.blobs:
        log.info("sweep.collected", blobs=gone.blobs, bytes=gone.bytes)
    return False


def sweep(station: Station) -> bool:
    """Queue again what lost its worker and give up what failed too often; False: there is never more to do at once."""
    station.beat()
    forgotten = uploads.forget_expired(station.database, station.blobs)
    if forgotten:
        log.info("sweep.forgot_uploads", uploads=forgotten)
    with station.database.session() as session:
        report = sweep_catalog(session)
    if report.requeued or report.failed or report.cancelled:
        log.info(
            "sweep.took_up",
            requeued=[ref.job_id for ref in report.requeued],
            failed=[ref.job_id for ref in report.failed],
            cancelled=[ref.job_id for ref in report.cancelled],
        )
    return False
