"""Finding and ending marked processes, with real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from worker.processes import end_marked, marked, marks

SLEEP = "import sys; sys.stdout.write('up\\n'); sys.stdout.flush(); sys.stdin.read()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
ORPHANING = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL); print(p.pid, flush=True)"
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, home: Path, attempt: str, script: str = SLEEP) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=dict(os.environ) | marks(attempt, home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    assert process.stdout is not None
    process.first_line = process.stdout.readline()  # type: ignore[attr-defined] # it is up when it has spoken
    return process


class TestMarked:
    def test_finds_a_process_by_attempt_and_home(self, stack: ExitStack, tmp_path: Path) -> None:
        process = start(stack, tmp_path, "7.1")
        assert [(p.pid, p.attempt) for p in marked(tmp_path)] == [(process.pid, "7.1")]

    def test_another_homes_job_of_the_same_number_is_not_found(self, stack: ExitStack, tmp_path: Path) -> None:
        start(stack, tmp_path / "other", "7.1")
        assert marked(tmp_path) == []


class TestEndMarked:
    def test_ends_those_that_are_meant_and_no_other(self, stack: ExitStack, tmp_path: Path) -> None:
        old, current = start(stack, tmp_path, "7.1"), start(stack, tmp_path, "7.2")
        ended = end_marked(tmp_path, lambda attempt: attempt == "7.1", grace_s=10)
        assert [p.pid for p in ended] == [old.pid]
        old.wait(10)
        assert current.poll() is None

    def test_one_that_ignores_term_is_killed(self, stack: ExitStack, tmp_path: Path) -> None:
        process = start(stack, tmp_path, "7.1", STUBBORN)
        end_marked(tmp_path, lambda attempt: True, grace_s=0.2)
        assert process.wait(10) == -9

    def test_an_orphan_in_a_session_of_its_own_is_found(self, stack: ExitStack, tmp_path: Path) -> None:
        parent = start(stack, tmp_path, "9.4", ORPHANING)
        parent.wait(10)
        orphan = int(parent.first_line)  # type: ignore[attr-defined] # set by start
        assert [p.pid for p in marked(tmp_path)] == [orphan]
        end_marked(tmp_path, lambda attempt: attempt == "9.4", grace_s=10)
        assert marked(tmp_path) == []

    def test_nothing_to_end_is_fine(self, tmp_path: Path) -> None:
        assert end_marked(tmp_path, lambda attempt: True, grace_s=10) == []
