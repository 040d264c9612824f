"""How far the reading of a dataset's files is: the words worker, API and command share."""

from __future__ import annotations

from enum import StrEnum


class IngestStatus(StrEnum):
    """Where the reading of what was offered is on its way."""

    IDLE = "idle"
    """Nothing was offered yet."""
    QUEUED = "queued"
    READING = "reading"
    CANCELLING = "cancelling"
    """Its owner asked for the end of it, and the worker has yet to hear of it."""
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It was given up after several attempts; the ledger names every file."""


class IngestPhase(StrEnum):
    """What the worker is doing."""

    FETCHING = "fetching"
    """Fetching pictures from addresses."""
    UNPACKING = "unpacking"
    """Taking files out of an archive or pictures out of a table."""
    DECODING = "decoding"
    """Looking into files one by one."""
    SETTLING = "settling"
    """Bringing captions, masks and images together."""


ENDED = frozenset({IngestStatus.IDLE, IngestStatus.DONE, IngestStatus.CANCELLED, IngestStatus.FAILED})
"""What needs no more waiting for."""
