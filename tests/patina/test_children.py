from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patina import children, leftovers
from patina.children import Child, launcher

WAITS = ("-c", "import sys; print('up', flush=True); import signal; signal.pause()")
IGNORES_TERM = (
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()",
)


def _child(tmp_path: Path, *arguments: str) -> Child:
    log = tmp_path / "child.log"
    return Child("child", launcher([sys.executable, *arguments], os.environ, log), log)


def _wait_for_words(child: Child) -> None:
    while "up" not in children.last_words(child.log):
        assert child.process is not None
        assert child.process.poll() is None


class TestTend:
    def test_a_living_child_is_left_alone(self, tmp_path: Path) -> None:
        child = _child(tmp_path, *WAITS)
        assert children.start(child, 0.0) is None
        assert children.tend(child, 1000.0) is None
        children.stop([child], 5, lambda s: False, time.monotonic)

    def test_a_killed_child_is_started_again_after_a_delay(self, tmp_path: Path) -> None:
        child = _child(tmp_path, *WAITS)
        children.start(child, 0.0)
        assert child.process is not None
        first = child.process
        first.kill()
        first.wait()
        said = children.tend(child, 1.0)
        assert said is not None
        assert "SIGKILL" in said
        assert children.tend(child, 1.4) is None
        assert "started again" in (children.tend(child, 1.5) or "")
        assert child.process.pid != first.pid
        children.stop([child], 5, lambda s: False, time.monotonic)

    def test_delays_grow_and_shrink_again_after_a_healthy_life(self, tmp_path: Path) -> None:
        child = _child(tmp_path, "-c", "raise SystemExit(3)")
        now, delays = 0.0, []
        for _ in range(9):
            children.start(child, now)
            assert child.process is not None
            child.process.wait()
            assert "exit code 3" in (children.tend(child, now) or "")
            assert child.start_again_s is not None
            delays.append(child.start_again_s - now)
            now = child.start_again_s
        assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        children.start(child, now)
        child.process.wait()
        children.tend(child, now + children.HEALTHY_AFTER_S)
        assert child.deaths == 1

    def test_a_program_that_is_not_there_is_said_and_tried_again(self, tmp_path: Path) -> None:
        child = Child("child", launcher([str(tmp_path / "nothing")], {}, tmp_path / "log"), tmp_path / "log")
        assert "No such file" in (children.start(child, 0.0) or "")
        assert child.start_again_s == 0.5


class TestStop:
    def test_term_first_then_kill_for_the_whole_group(self, tmp_path: Path) -> None:
        polite, stubborn = _child(tmp_path / "a", *WAITS), _child(tmp_path / "b", *IGNORES_TERM)
        processes: list[subprocess.Popen[bytes]] = []
        for child in (polite, stubborn):
            child.log.parent.mkdir()
            children.start(child, 0.0)
            _wait_for_words(child)
            assert child.process is not None
            processes.append(child.process)
        children.stop([polite, stubborn], 0.5, lambda s: time.sleep(s) or False, time.monotonic)
        assert [p.returncode for p in processes] == [-signal.SIGTERM, -signal.SIGKILL]

    def test_hurry_kills_at_once(self, tmp_path: Path) -> None:
        child = _child(tmp_path, *IGNORES_TERM)
        children.start(child, 0.0)
        _wait_for_words(child)
        process = child.process
        children.stop([child], 3600, lambda s: True, time.monotonic)
        assert process is not None
        assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="parents are told of only by Linux")
class TestLauncher:
    def test_the_child_ends_with_its_parent_even_when_that_is_killed(self, tmp_path: Path) -> None:
        code = (
            "import os, sys, signal; from pathlib import Path; from patina.children import launcher\n"
            f"launcher([sys.executable, *{WAITS!r}], os.environ, Path(sys.argv[1]))()\n"
            "signal.pause()"
        )
        log, mark = tmp_path / "log", str(tmp_path)
        parent = subprocess.Popen([sys.executable, "-c", code, str(log)], env={**os.environ, "PATINA_TEST_MARK": mark})
        while "up" not in children.last_words(log):
            assert parent.poll() is None
        assert len(leftovers.marked("PATINA_TEST_MARK", mark)) == 2
        parent.kill()
        parent.wait()
        while leftovers.marked("PATINA_TEST_MARK", mark):
            pass  # the test's own time limit ends this when the child stays

    def test_a_long_log_is_put_aside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(children, "LOG_LIMIT_BYTES", 10)
        log = tmp_path / "x.log"
        log.write_text("long enough words")
        launcher([sys.executable, "-c", "print('new')"], os.environ, log)().wait()
        assert log.read_text() == "new\n"
        assert (tmp_path / "x.log.1").read_text() == "long enough words"
