"""Times as the command shows them. Knows nothing about what happened then."""

from __future__ import annotations

from datetime import datetime


def when(value: float | str | None) -> str | None:
    """Unix seconds or ISO 8601 as local date and time."""
    if value is None:
        return None
    moment = datetime.fromtimestamp(value) if isinstance(value, int | float) else datetime.fromisoformat(value)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
