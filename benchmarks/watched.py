"""Run a program to its end and say what it took: wall time, processor time, memory, and how fast it counts steps.

Steps are counted from outside, by a function that looks at what the program writes, so that two programs that know
nothing of each other are measured alike. Knows nothing about training.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EVERY_S = 0.02
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Taken:
    """What a program took from its start to its end, its waited-for children included."""

    seconds: float
    processor_s: float
    peak_rss_gb: float
    """Of its largest process."""
    first_step_s: float | None
    """Wall seconds from the start to the first step."""
    first_step_processor_s: float | None
    step_s: float | None
    """Mean of the steps after the first."""
    step_processor_s: float | None

    def told(self) -> dict[str, Any]:
        return {name: value if value is None else round(value, 3) for name, value in asdict(self).items()}


def run(words: Sequence[str], *, env: Mapping[str, str], log: Path, steps: Callable[[], int] = lambda: 0) -> Taken:
    """Run ``words``, all output to ``log``, and ask ``steps`` all the while how many steps are done.

    Raises:
        RuntimeError: it failed; the end of its output is in the message.
    """
    seen: list[tuple[int, float, float]] = []
    with log.open("wb") as output:
        began = time.perf_counter()
        child = subprocess.Popen(words, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while True:
                pid, status, used = os.wait4(child.pid, os.WNOHANG)
                ended = time.perf_counter()
                if pid:
                    break
                done = steps()
                if done and (not seen or done > seen[-1][0]):
                    seen.append((done, ended - began, _processor_s(child.pid)))
                time.sleep(EVERY_S)
        except BaseException:
            child.kill()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{words[0]} ended with {child.returncode}: {log.read_text(errors='replace')[-2000:]}")
    first, last = (seen[0], seen[-1]) if seen else (None, None)
    rate: list[float | None] = [None, None]
    if first and last and last[0] > first[0]:
        rate = [(last[part] - first[part]) / (last[0] - first[0]) for part in (1, 2)]
    return Taken(
        seconds=ended - began,
        processor_s=used.ru_utime + used.ru_stime,
        peak_rss_gb=used.ru_maxrss / 1e6,
        first_step_s=first[1] if first else None,
        first_step_processor_s=first[2] if first else None,
        step_s=rate[0],
        step_processor_s=rate[1],
    )


def _processor_s(pid: int) -> float:
    """User and system seconds of a process that may just have ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / TICKS_A_SECOND


def available_gb() -> float:
    """Memory that a new program can have."""
    (line,) = (one for one in Path("/proc/meminfo").read_text().splitlines() if one.startswith("MemAvailable"))
    return int(line.split()[1]) / 1e6
