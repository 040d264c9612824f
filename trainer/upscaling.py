"""Which pictures are so small that filling their bucket would blur them, in words.

Knows nothing about how pictures are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.buckets import Bucket, place
from contracts.dataset import VersionRow

NAMED = 5
"""Pictures named in one message, those enlarged most first."""


def upscaling_warning(rows: Sequence[VersionRow], table: Sequence[Bucket], most: float | None) -> str | None:
    """The pictures enlarged more than ``most`` times; None when there are none, or nobody wants to know."""
    if most is None:
        return None
    factors = {row.source_name: place(row.original_width, row.original_height, table).upscaling for row in rows}
    found = sorted(((name, factor) for name, factor in factors.items() if factor > most), key=lambda one: -one[1])
    if not found:
        return None
    named = ", ".join(f"{name} ({factor:.2g} times)" for name, factor in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{len(found)} pictures are enlarged more than {most:g} times to fill their bucket: {named}{more}"
