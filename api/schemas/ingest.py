"""What the API answers about the reading of a dataset's files."""

from __future__ import annotations

from datetime import datetime

from api.schemas.common import Answer, moment_or_none
from catalog.datasets.ingests import IngestView
from contracts.dataset import Fate
from contracts.ingest import IngestPhase, IngestStatus


class IngestOut(Answer):
    """How far the newest reading of a dataset's files is; members of archives are files, too.

    found = done + what is still to be read, done = used + duplicate + rejected.
    """

    dataset: str
    number: int
    """Counts the readings of the dataset; files offered while one is under way belong to it."""
    status: IngestStatus
    phase: IngestPhase | None
    file: str | None
    """The file that is being looked into."""
    file_done: int | None
    """How many files inside it have been taken out."""
    file_total: int | None
    found: int
    done: int
    used: int
    duplicate: int
    rejected: int
    found_bytes: int
    done_bytes: int
    waits_for: str | None
    """A file that cannot be read yet, and why."""
    began_at: datetime | None
    ended_at: datetime | None


def ingest_out(ingest: IngestView) -> IngestOut:
    """A catalog view as the API shows it."""
    return IngestOut(
        dataset=ingest.dataset_id,
        number=ingest.number,
        status=ingest.status,
        phase=ingest.phase,
        file=ingest.file,
        file_done=ingest.file_done,
        file_total=ingest.file_total,
        found=ingest.found,
        done=ingest.done,
        used=ingest.fates[Fate.USED],
        duplicate=ingest.fates[Fate.DUPLICATE],
        rejected=ingest.fates[Fate.REJECTED],
        found_bytes=ingest.found_bytes,
        done_bytes=ingest.done_bytes,
        waits_for=ingest.waits_for,
        began_at=moment_or_none(ingest.began_at),
        ended_at=moment_or_none(ingest.ended_at),
    )
