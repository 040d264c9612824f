"""Ctrl-C while the trainer is being loaded, in a process of its own that is interrupted at the import that is named."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.trainer.tiny import environment, launch, make_recipe
from trainer.cli import main
from trainer.starting import python, typed

CODE = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)

MODULE = sys.argv[1]
sys.meta_path.insert(0, Interrupting())
sys.argv = ["trainer", *sys.argv[2:]]
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("trainer", run_name="__main__")
"""


class TestStarting:
    @pytest.mark.parametrize("module", ["pydantic", "torch"])
    def test_interrupted_it_says_in_a_line_that_nothing_was_trained_and_how_to_start_again(
        self, module: str, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path)
        done = launch(["-c", CODE, module, str(recipe), "--run-dir", str(tmp_path / "run")], environment())
        again = f"{python()} -m trainer {recipe} --run-dir {tmp_path}/run"
        assert done.stderr == f"interrupted while starting: nothing was trained this time; to start again: {again}\n"
        assert (done.returncode, done.stdout) == (130, "")
        assert not (tmp_path / "run").exists()

    def test_interrupted_later_it_tells_of_a_checkpoint_only_where_there_is_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*args: object, **more: object) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr("trainer.attempt.attempt", interrupted)
        recipe = make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path)
        words = [str(recipe), "--run-dir", str(tmp_path / "run")]
        before = signal.getsignal(signal.SIGINT)
        assert main(words) == 130
        assert f"nothing trained is kept; to start again: {python()} -m trainer" in capsys.readouterr().err
        (tmp_path / "run" / "checkpoints" / "step-4").mkdir(parents=True)
        assert main(words) == 130
        assert f"to go on from the last checkpoint: {python()} -m trainer" in capsys.readouterr().err
        assert signal.getsignal(signal.SIGINT) is before

    def test_of_several_processes_none_tells_a_command_that_would_start_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert typed(["c.yaml"]) == "the same command"

    @pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
    def test_one_of_several_processes_tells_a_refusal_as_an_event(
        self, rank: str, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RANK", rank)
        recipe = make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path, stepz=1)
        assert main([str(recipe), "--run-dir", str(tmp_path / "run"), "--json-events"]) == 1
        assert len(capsys.readouterr().out.splitlines()) == lines
