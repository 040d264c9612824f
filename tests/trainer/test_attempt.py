"""An attempt ends in words whatever happens around it: a full disk, nobody who watches, another rank that failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer.attempt
import trainer.judge
import trainer.run
from contracts import events
from contracts.events import Event, StepDone
from contracts.failures import FailureCode
from contracts.rundir import Completed, Failed, RunDir
from tests.trainer.tiny import (
    command,
    environment,
    events_of,
    losses,
    make_recipe,
    outcome_of,
    same,
    train,
    weights_of,
)
from trainer.folder import RESERVE, end
from trainer.report import EventFile

DISK_BYTES = 16 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a test can fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave not one byte, as another writer does."""
    with (disk / "of-another").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def when_stepped(step: int, do: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something before the event of ``step`` is written."""
    write = EventFile.__call__

    def doing(self: EventFile, event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            do()  # type: ignore[operator]  # what a test gives
        write(self, event)

    monkeypatch.setattr(EventFile, "__call__", doing)


class TestAFullDisk:
    @pytest.mark.slow
    def test_that_has_room_again_loses_checkpoints_and_nothing_else(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        small_disk: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        when_stepped(2, lambda: fill(small_disk), monkeypatch)
        when_stepped(5, (small_disk / "of-another").unlink, monkeypatch)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        run_dir = RunDir(small_disk / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert isinstance(outcome_of(run_dir.root), Completed)
        assert losses(run_dir.root) == losses(finished)
        assert same(weights_of(run_dir.root), weights_of(finished))
        warned = [event.message for event in events_of(run_dir.root) if isinstance(event, events.Warned)]
        assert any("the checkpoint of step 3 could not be saved" in message for message in warned)
        assert any("held_out.png is not drawn" in message for message in warned)
        assert any("not all previews after step 3 could be made" in message for message in warned)

    def test_that_stays_full_is_what_the_outcome_says(
        self,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        small_disk: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        when_stepped(2, lambda: fill(small_disk), monkeypatch)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        run_dir = RunDir(small_disk / "run")
        assert train(recipe, run_dir.root, cache_dir) == 1
        outcome = outcome_of(run_dir.root)
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.retryable) == (FailureCode.DISK_FULL, True)
        assert run_dir.checkpoint(1).exists()
        (small_disk / "of-another").unlink()
        monkeypatch.undo()
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert isinstance(outcome_of(run_dir.root), Completed)
        assert not (run_dir.root / RESERVE).exists()


class TestPreviews:
    def test_that_cannot_be_made_are_said_and_the_run_goes_on_to_the_same_weights(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def failing(*given: object, **named: object) -> Iterator[None]:
            raise RuntimeError("CUDA error: out of memory\nmore of it")
            yield

        monkeypatch.setattr(trainer.judge, "make_previews", failing)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        warned = [event for event in events_of(run_dir.root) if isinstance(event, events.Warned)]
        assert [event.step for event in warned] == [0, 3, 6]
        assert warned[1].message == (
            "not all previews after step 3 could be made (CUDA error: out of memory); the run goes on."
        )
        assert "RuntimeError" in run_dir.log.read_text()
        assert same(weights_of(run_dir.root), weights_of(finished))

    def test_come_after_the_checkpoint_of_their_step(self, finished: Path) -> None:
        said = [type(event) for event in events_of(finished) if event.step == 3]
        assert said.index(events.CheckpointSaved) < said.index(events.Preview)


class TestWhoeverWatches:
    @pytest.mark.slow
    @pytest.mark.parametrize("more", [[], ["--json-events"]])
    def test_may_go_away_and_the_run_ends_as_it_would(
        self, more: list[str], finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        reading, writing = os.pipe()
        words = [sys.executable, *command(recipe, tmp_path / "run", cache_dir), *more]
        with subprocess.Popen(words, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True) as child:
            os.close(writing)
            os.close(reading)
            assert child.communicate(timeout=240)[1] == ""
        assert child.returncode == 0
        assert isinstance(outcome_of(tmp_path / "run"), Completed)
        assert same(weights_of(tmp_path / "run"), weights_of(finished))


class TestARankThatFailedFirst:
    def test_is_what_the_others_say_too(
        self,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        reason = "The latent of bad.png is not a finite number."
        run_dir = RunDir(tmp_path / "run")

        def losing_the_other(*given: object) -> None:
            end(
                run_dir,
                Failed(step=0, code=FailureCode.NAN_LATENT, message=reason, hint="Look at it.", retryable=False),
            )
            raise RuntimeError("Connection closed by peer")

        monkeypatch.setattr(trainer.attempt, "train", losing_the_other)
        assert train(make_recipe(tmp_path / "r.yaml", base_dir, pictures), run_dir.root, cache_dir) == 1
        *_, last = events_of(run_dir.root)
        assert isinstance(last, events.Finished)
        assert (last.code, last.message) == (FailureCode.NAN_LATENT, f"{reason} Look at it.")


class TestMemory:
    @pytest.mark.parametrize(
        "words",
        ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"],
    )
    def test_that_runs_out_beside_torchs_own_allocator_is_called_so(
        self,
        words: str,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def failing(*given: object) -> None:
            raise RuntimeError(words)

        monkeypatch.setattr(trainer.attempt, "train", failing)
        run_dir = RunDir(tmp_path / "run")
        assert train(make_recipe(tmp_path / "r.yaml", base_dir, pictures), run_dir.root, cache_dir) == 1
        outcome = outcome_of(run_dir.root)
        assert isinstance(outcome, Failed)
        assert outcome.code == FailureCode.OUT_OF_MEMORY
