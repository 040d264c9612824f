"""Reading events.jsonl while a trainer writes it. Knows nothing about what is done with the events."""

from __future__ import annotations

from pathlib import Path

import structlog
from pydantic import ValidationError

from contracts.events import EVENT, Event

log = structlog.get_logger(__name__)


class EventTail:
    """The events of a file that grows; each whole, readable line is given once.

    Args:
        path: the file; it need not be there yet.
        skip: how many events were already taken from it, by an earlier attempt.
    """

    def __init__(self, path: Path, skip: int = 0) -> None:
        self._path = path
        self._offset = 0
        self._skip = skip

    def read(self) -> list[Event]:
        """The events that have been added since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [event for line in whole.splitlines() if (event := self._parse(line)) is not None]
        skipped = min(self._skip, len(events))
        self._skip -= skipped
        return events[skipped:]

    def _parse(self, line: bytes) -> Event | None:
        try:
            return EVENT.validate_json(line)
        except ValidationError:
            # A process that was killed while writing leaves half a line; the step is done again and said again.
            log.warning("events.unreadable_line", file=str(self._path), bytes=len(line))
            return None
