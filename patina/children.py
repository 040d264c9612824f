"""Child processes of the supervisor: started so that they end with it, started again when they die, ended in order.

Knows nothing about what the children do; time comes from the caller so that backing off can be tested.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.failures import PatinaError

PR_SET_PDEATHSIG = 1
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A child that lived this long starts again at once and from the shortest delay."""
LOG_LIMIT_BYTES = 20_000_000

Launch = Callable[[], "subprocess.Popen[bytes]"]


@dataclass
class Child:
    """One process that is to be there, whatever became of it last time."""

    name: str
    launch: Launch
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    deaths: int = 0
    start_again_s: float | None = None
    """When to start it again; None while it runs."""


def start(child: Child, now_s: float) -> str | None:
    """Start the child; when that fails it counts as a death, and the reason is returned."""
    child.started_s = now_s
    child.start_again_s = None
    try:
        child.process = child.launch()
    except (OSError, PatinaError) as error:
        child.process = None
        return _bury(child, now_s, str(error))
    return None


def tend(child: Child, now_s: float) -> str | None:
    """Notice a death, or start again what is due; what happened, in words, or None."""
    if child.start_again_s is not None:
        if now_s < child.start_again_s:
            return None
        return start(child, now_s) or f"started again (pid {child.process.pid if child.process else '?'})"
    if child.process is None or child.process.poll() is None:
        return None
    code = child.process.returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return _bury(child, now_s, how)


def stop(children: Sequence[Child], grace_s: float, wait: Callable[[float], bool], clock: Callable[[], float]) -> None:
    """Ask all of them to end at once, wait, then end what is left.

    Args:
        wait: sleeps that long; True means hurry.
    """
    running = [child.process for child in children if child.process is not None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    deadline = clock() + grace_s
    while any(process.poll() is None for process in running) and clock() < deadline:
        if wait(0.05):
            break
    for process in running:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for child in children:
        child.process = None
        child.start_again_s = None


def launcher(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Launch:
    """How to start a program in a session of its own, its words in ``log``, told to end when this process does."""
    bind_to_parent = die_with(os.getpid())

    def launch() -> subprocess.Popen[bytes]:
        _rotate(log)
        with log.open("ab") as output:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=bind_to_parent,
            )

    return launch


def die_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it becomes its program: ask for TERM when its parent ends (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it was asked for
            os._exit(1)

    return ask


def last_words(log: Path, lines: int = 3) -> str:
    """The end of a log, for a message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-lines:])


def _bury(child: Child, now_s: float, how: str) -> str:
    if now_s - child.started_s >= HEALTHY_AFTER_S:
        child.deaths = 0
    delay_s = min(FIRST_DELAY_S * 2**child.deaths, LONGEST_DELAY_S)
    child.deaths += 1
    child.start_again_s = now_s + delay_s
    return f"{how}; starting it again in {delay_s:g} s"


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
