"""Reading events.jsonl while a trainer writes it. Knows nothing about what is done with the events."""

from __future__ import annotations

from pathlib import Path

import structlog
from pydantic import ValidationError

from contracts.events import EVENT, Event

MAX_READ_BYTES = 4 * 1024**2
"""Read at once: a worker that comes late to a long run writes it in several transactions."""

log = structlog.get_logger(__name__)


class EventTail:
    """The events of a file that grows; each whole, readable line is given once.

    Args:
        path: the file; it need not be there yet.
        offset: the byte after the last line an earlier attempt has taken.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self.offset = offset
        """The byte after the last line that was given."""

    def read(self) -> list[Event]:
        """The events that have been added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self.offset)
                added = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [event for line in whole.splitlines() if (event := self._parse(line)) is not None]

    def _parse(self, line: bytes) -> Event | None:
        try:
            return EVENT.validate_json(line)
        except ValidationError:
            log.warning("events.unreadable_line", file=str(self._path), bytes=len(line))
            return None
