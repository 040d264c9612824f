"""The benchmarks of the trainer measure the real thing: they break with it, and count what really ran."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.random_sdxl import write_base
from benchmarks.train_start import library_imports
from benchmarks.train_step import measure
from benchmarks.watched import run

COUNTING = """
import pathlib, sys, time
file = pathlib.Path(sys.argv[1])
for step in range(3):
    file.write_text("x" * (step + 1))
    while not file.with_suffix(f".{step + 1}").exists():
        pass
"""


class TestTheStep:
    def test_is_followed_by_a_bare_pass_each_time(self, tmp_path: Path) -> None:
        write_base(tmp_path / "base", size="tiny", dtype=torch.float16)
        settings = {"precision": "fp32", "lora": {"rank": 2, "alpha": 2.0}}
        heard = measure(tmp_path / "base", tmp_path / "cache", settings, pixels=64, batch=2, turns=2)
        assert (len(heard.steps), len(heard.floors)) == (3, 3)
        assert min(seconds for pair in (*heard.steps, *heard.floors) for seconds in pair) >= 0
        assert all(step[0] > 0 and floor[0] > 0 for step, floor in zip(heard.steps, heard.floors, strict=True))


class TestAWatchedProgram:
    def test_has_its_steps_counted_from_outside(self, tmp_path: Path) -> None:
        file = tmp_path / "steps"

        def steps() -> int:
            done = len(file.read_text()) if file.exists() else 0
            if done:
                file.with_suffix(f".{done}").touch()
            return done

        taken = run([sys.executable, "-c", COUNTING, str(file)], env=os.environ, log=tmp_path / "log", steps=steps)
        assert taken.first_step_s is not None
        assert taken.step_s is not None
        assert taken.first_step_s + 2 * taken.step_s <= taken.seconds
        assert taken.peak_rss_gb > 0

    def test_that_fails_says_how(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="no such thing"):
            run([sys.executable, "-c", "raise SystemExit('no such thing')"], env=os.environ, log=tmp_path / "log")


class TestTheBareImports:
    def test_are_the_libraries_of_the_trainer_and_nothing_of_ours(self) -> None:
        statements = library_imports()
        assert {"import torch", "import wandb"} <= set(statements)
        assert not any(name in " ".join(statements) for name in ("trainer.", "sdxl.", "contracts."))
