"""Finding and ending processes by the mark in their environment, whoever their parent is now.

A trainer's ranks sit in sessions of their own and outlive whoever started them, so neither parent nor process
group finds them all; the marks PATINA_ATTEMPT and PATINA_HOME, inherited by every descendant, do. Linux only:
elsewhere nothing is found. Knows nothing about jobs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.rundir import ATTEMPT_VARIABLE

HOME_VARIABLE = "PATINA_HOME"
PROC = Path("/proc")


@dataclass(frozen=True)
class Marked:
    """A process of some attempt of this home."""

    pid: int
    attempt: str
    """"JOB.FENCE"."""


def marks(attempt: str, home: Path) -> dict[str, str]:
    """The environment variables every process of an attempt carries; ids alone are not unique between homes."""
    return {ATTEMPT_VARIABLE: attempt, HOME_VARIABLE: str(home)}


def marked(home: Path) -> list[Marked]:
    """Every process of this home's attempts that is alive on this host."""
    found = []
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        attempt = _attempt(entry, home) if entry.name.isdigit() else None
        if attempt is not None:
            found.append(Marked(int(entry.name), attempt))
    return found


def end_marked(home: Path, ends: Callable[[str], bool], grace_s: float) -> list[Marked]:
    """TERM, then KILL after ``grace_s``, every process whose attempt ``ends`` says yes to; returns them.

    Repeated until nothing is found, because a process may start another while it is being looked for.
    """
    ended: list[Marked] = []
    for round_grace_s in (grace_s, 0.0, 0.0):
        doomed = [process for process in marked(home) if process.pid != os.getpid() and ends(process.attempt)]
        if not doomed:
            break
        ended += doomed
        with contextlib.ExitStack() as stack:
            handles = [handle for p in doomed if (handle := stack.enter_context(_held(p, home))) is not None]
            if round_grace_s:
                _signal(handles, signal.SIGTERM)
                handles = _wait(handles, round_grace_s)
            _signal(handles, signal.SIGKILL)
            _wait(handles, 5.0)
    return ended


def _attempt(entry: Path, home: Path) -> str | None:
    try:
        environment = (entry / "environ").read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return None
    if ATTEMPT_VARIABLE.encode() not in environment:
        return None
    values = dict(part.split(b"=", 1) for part in environment.split(b"\0") if b"=" in part)
    if values.get(HOME_VARIABLE.encode()) != os.fsencode(home):
        return None
    return os.fsdecode(values.get(ATTEMPT_VARIABLE.encode(), b"")) or None


@contextmanager
def _held(process: Marked, home: Path) -> Iterator[int | None]:
    """A handle on the very process that was found, even if its id is given to another one meanwhile."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        yield None
        return
    try:
        yield handle if _attempt(PROC / str(process.pid), home) == process.attempt else None
    finally:
        os.close(handle)


def _signal(handles: list[int], number: signal.Signals) -> None:
    for handle in handles:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)


def _wait(handles: list[int], timeout_s: float) -> list[int]:
    """Wait until they have ended; returns those that have not."""
    deadline = time.monotonic() + timeout_s
    left = set(handles)
    while left and (rest_s := deadline - time.monotonic()) > 0:
        left -= set(select.select(list(left), [], [], rest_s)[0])
    return list(left)
