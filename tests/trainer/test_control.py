"""Requests: files and signals become flags, and files go away when they were acted on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from contracts.rundir import RunDir
from trainer.control import REQUESTS, listening


def ask(run_dir: RunDir, name: str) -> None:
    (run_dir.root / "control").mkdir(exist_ok=True)
    (run_dir.root / "control" / name).touch()


class TestRequests:
    def test_files_are_seen_until_they_are_done(self, tmp_path: Path) -> None:
        run_dir = RunDir(tmp_path)
        with listening(run_dir, watches_files=True) as requests:
            ask(run_dir, "save")
            assert dict(zip(REQUESTS, requests.pending(), strict=True)) == {
                "stop": False,
                "save": True,
                "preview": False,
            }
            requests.done("save")
            assert not any(requests.pending())

    def test_only_the_watching_rank_counts_a_file(self, tmp_path: Path) -> None:
        run_dir = RunDir(tmp_path)
        ask(run_dir, "stop")
        with listening(run_dir, watches_files=False) as requests:
            assert not any(requests.pending())
            assert requests.stop_wanted()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_asks_to_stop_and_the_handlers_go_back(self, tmp_path: Path, number: signal.Signals) -> None:
        # Whoever runs the tests may have it ignored, as nohup does with one of them.
        before = signal.signal(number, signal.default_int_handler)
        try:
            with listening(RunDir(tmp_path), watches_files=True) as requests:
                os.kill(os.getpid(), number)
                assert requests.pending()[REQUESTS.index("stop")]
            assert signal.getsignal(number) is signal.default_int_handler
        finally:
            signal.signal(number, before)

    def test_a_hang_up_that_is_ignored_stays_so(self, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with listening(RunDir(tmp_path), watches_files=True) as requests:
                os.kill(os.getpid(), signal.SIGHUP)
                assert not any(requests.pending())
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_second_interrupt_ends_it_as_usual(self, tmp_path: Path) -> None:
        with listening(RunDir(tmp_path), watches_files=True):
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
