"""The published SDXL checkpoint's own names and shapes: what converters of names are held against."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sdxl.original import PREFIXES

TABLE = Path(__file__).with_name("sdxl_1_0_tensors.txt")


@cache
def tensors() -> dict[str, tuple[int, ...]]:
    """Shape of each of the 2515 tensors by its name in the single file."""
    rows = [line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    assert len(rows) == 2515
    return {name: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for name, shape in rows}


def of(component: str) -> dict[str, tuple[int, ...]]:
    """A component's, its prefix removed."""
    start = PREFIXES[component]
    return {name.removeprefix(start): shape for name, shape in tensors().items() if name.startswith(start)}
