"""A worker as a real process, with what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


class Running:
    """A started worker; its lines on stderr are collected as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, words: str, timeout_s: float = 120) -> str:
        """The first line with these words; fails with everything that was said when it does not come."""
        found = self.wait_until(lambda: next((line for line in self.lines if words in line), None), timeout_s)
        assert found is not None, f"'{words}' was not said:\n{''.join(self.lines[-60:])}"
        return found

    def wait_until(self, holds: Callable[[], T | None], timeout_s: float = 120) -> T | None:
        """Look again whenever the worker says something, and now and then."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._news:
                found = holds()
                if found or time.monotonic() > deadline:
                    return found
                self._news.wait(0.25)

    def end(self, timeout_s: float = 120) -> int:
        """TERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9, as a crash does."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()


@contextmanager
def running(queue: str, home: Path, **environment: str) -> Iterator[Running]:
    """A Celery worker of one queue on a home, ended at the end."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-A", f"worker.{queue}", "worker", "-P", "threads", "-c", "1"),
            *("--loglevel", "INFO", "--without-gossip", "--without-mingle", "-n", f"{queue}@test"),
        ],
        cwd=ROOT,
        env=os.environ | {"PATINA_HOME": str(home), "PATINA_DEVICE": "cpu", "PATINA_SWEEP_S": "0.5"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    worker = Running(process)
    try:
        yield worker
    finally:
        if process.poll() is None:
            worker.kill()
