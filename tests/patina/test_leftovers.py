from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from patina import leftovers

STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"
)
POLITE = "import sys; print('up', flush=True); sys.stdin.read()"
VARIABLE = "PATINA_TEST_MARK"


@pytest.fixture
def mark() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def started(mark: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A polite and a stubborn process with the mark, each in a session of its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, VARIABLE: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for code in (POLITE, STUBBORN)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


class TestMarked:
    def test_it_finds_exactly_the_marked(self, mark: str, started: list[subprocess.Popen[bytes]]) -> None:
        assert leftovers.marked(VARIABLE, mark) == sorted(p.pid for p in started)
        assert leftovers.marked(VARIABLE, mark[:-1]) == []

    def test_it_never_finds_the_asker_or_those_above(self, mark: str) -> None:
        code = f"from patina import leftovers; print(leftovers.marked({VARIABLE!r}, {mark!r}))"
        nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
        done = subprocess.run(
            [sys.executable, "-c", nested], env={**os.environ, VARIABLE: mark}, capture_output=True, check=True
        )
        assert done.stdout == b"[]\n"


class TestSweep:
    def test_it_ends_the_polite_and_the_stubborn(self, mark: str, started: list[subprocess.Popen[bytes]]) -> None:
        assert leftovers.sweep(VARIABLE, mark, grace_s=0.3) == sorted(p.pid for p in started)
        assert leftovers.marked(VARIABLE, mark) == []
        assert [p.wait() for p in started] == [-15, -9]

    def test_there_may_be_none(self, mark: str) -> None:
        assert leftovers.sweep(VARIABLE, mark, grace_s=0.0) == []
