"""What every worker does every few seconds, whatever its queue: say it is alive, and take up what was dropped.

Each step is a guarded write, so any number of workers may do it at once. Knows nothing about the work.
"""

from __future__ import annotations

import structlog

from catalog.sweep import sweep as sweep_catalog
from worker.station import Station

log = structlog.get_logger(__name__)


def sweep(station: Station) -> bool:
    """Queue again what lost its worker and give up what failed too often; False: there is never more to do at once."""
    station.beat()
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
