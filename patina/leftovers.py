"""Finds and ends processes by a mark in their environment: what no process group and no parent still reaches.

Knows nothing about what the processes are. Reads /proc, so it finds nothing on systems without one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

POLL_S = 0.05


def marked(variable: str, value: str) -> list[int]:
    """Process ids, other than this one and its ancestors, that carry ``variable=value`` in their environment."""
    wanted = f"{variable}={value}".encode()
    mine = _ancestry()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) not in mine and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)


def sweep(variable: str, value: str, grace_s: float) -> list[int]:
    """Ask every marked process to end, wait, then end those that did not; which ones there were."""
    found = marked(variable, value)
    _signal(found, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    # New ones may be started by those that are ending, so look again each time.
    while (left := marked(variable, value)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    while left:
        _signal(left, signal.SIGKILL)
        time.sleep(POLL_S)
        left = marked(variable, value)
    return found


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _ancestry() -> set[int]:
    pid = os.getpid()
    chain = set()
    while pid > 0:
        chain.add(pid)
        try:
            # The name in parentheses may hold spaces: count fields from its end.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return chain
