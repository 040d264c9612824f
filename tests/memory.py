"""What a tree of processes holds in memory, sampled while it runs: how large a machine has to be.

A page that several processes share counts once in all (PSS). Linux only.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
EVERY_S = 0.25


@dataclass
class Phase:
    """One part of what was watched."""

    name: str
    seconds: float = 0.0
    peak_bytes: int = 0
    """Of all processes together."""
    peak_by_process: dict[str, int] = field(default_factory=dict)
    """What each kind of process held at that moment."""


class Memory:
    """Every sample taken, summed up by phase; make it with ``watched``."""

    def __init__(self, others: Callable[[], Iterable[int]]) -> None:
        self.phases: list[Phase] = []
        self.samples: list[dict[str, int]] = []
        """Bytes of each kind of process, sample after sample."""
        self.largest_bytes = 0
        """The most a single process ever held, as the kernel has counted it: no moment between samples is missed."""
        self._others = others

    @property
    def peak_bytes(self) -> int:
        """The most all processes held together."""
        return max(self.largest_bytes, max(phase.peak_bytes for phase in self.phases))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done inside is one phase."""
        started = time.monotonic()
        self.phases.append(Phase(name))
        try:
            yield
        finally:
            self.phases[-1].seconds = time.monotonic() - started

    def take(self) -> None:
        """Take one sample."""
        held: dict[str, int] = {}
        for pid in {*descendants(os.getpid()), *self._others()}:
            kind, (pss_bytes, largest_bytes) = kind_of(pid), held_by(pid)
            held[kind] = held.get(kind, 0) + pss_bytes
            self.largest_bytes = max(self.largest_bytes, largest_bytes)
        self.samples.append(held)
        if self.phases and sum(held.values()) > self.phases[-1].peak_bytes:
            self.phases[-1].peak_bytes, self.phases[-1].peak_by_process = sum(held.values()), held


@contextmanager
def watched(others: Callable[[], Iterable[int]]) -> Iterator[Memory]:
    """Sample this process's descendants, and the ``others`` whose parents are gone, until the end of the block."""
    memory, ended = Memory(others), threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            memory.take()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


def descendants(pid: int) -> list[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*"):
        # The command's name, in brackets, may hold anything; the parent is the second word after it.
        words = _read(entry / "stat").rpartition(")")[2].split()
        if words:
            children.setdefault(int(words[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def held_by(pid: int) -> tuple[int, int]:
    """(bytes it holds now, its share of shared pages; the most it ever held); zeros when it is gone."""
    entry = PROC / str(pid)
    return _bytes(_read(entry / "smaps_rollup"), "Pss"), _bytes(_read(entry / "status"), "VmHWM")


def kind_of(pid: int) -> str:
    """The module a Python process runs (a Celery worker's own one), else the program's name."""
    words = _read(PROC / str(pid) / "cmdline").split("\0")
    if "celery" in words and "-A" in words:
        return words[words.index("-A") + 1]
    if "-m" in words:
        return words[words.index("-m") + 1]
    return Path(words[0]).name


def _bytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
