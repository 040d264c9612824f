"""What memory this process has, as Linux counts it, and from when its peak is counted (man 5 proc)."""

from __future__ import annotations

import gc
from pathlib import Path

from trainer.freeing import give_back_memory

STATUS = Path("/proc/self/status")
PEAK_FROM_NOW = "5"
"""What /proc/self/clear_refs takes for: the highest memory so far is what is held now."""


def memory(name: str) -> int:
    """VmRSS, VmHWM (its peak) or RssFile of this process in bytes."""
    (line,) = (one for one in STATUS.read_text().splitlines() if one.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def settle() -> int:
    """Give back what is free, begin the peak anew, and say what is held."""
    gc.collect()
    give_back_memory()
    Path("/proc/self/clear_refs").write_text(PEAK_FROM_NOW)
    return memory("VmRSS")
