"""A disk without room: refused before the first step; later the checkpoint that is being saved is lost, no other."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import trainer.checkpoint
import trainer.room
from contracts import events
from contracts.failures import PatinaError
from contracts.rundir import Completed, Failed, RunDir
from tests.trainer.tiny import events_of, losses, make_recipe, outcome_of, same, stop_after, train, weights_of
from trainer.room import Need, check_room, is_full


@contextmanager
def no_room_for_more_than(limit_bytes: int) -> Iterator[None]:
    """Every file written meanwhile fails at this size, as on a full disk; everybody is root where these tests run."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_the_disk_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while the checkpoint of ``step`` is written, and has room again after."""
    write = trainer.checkpoint._write

    def filling_up(folder: Path, state: trainer.checkpoint.RunState, groups: object) -> None:
        with no_room_for_more_than(10_000 if state.step == step else 1 << 30):
            write(folder, state, groups)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(trainer.checkpoint, "_write", filling_up)


def leave_free(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every disk say that it has so many bytes left."""
    usage = shutil.disk_usage("/")._replace(free=count)
    monkeypatch.setattr(trainer.room.shutil, "disk_usage", lambda folder: usage)


class TestCheckRoom:
    def test_adds_up_what_is_on_one_disk_and_says_how_much_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leave_free(5 * 2**20, monkeypatch)
        check_room([Need(tmp_path, 5 * 2**20, "checkpoints")])
        with pytest.raises(PatinaError) as caught:
            check_room([Need(tmp_path, 2**22, "2 checkpoints"), Need(tmp_path, 7 * 2**19, "the weights")])
        assert caught.value.code == "disk_full"
        assert caught.value.message == (
            f"The run needs 4 MiB for 2 checkpoints, 3.5 MiB for the weights; the disk of {tmp_path} has 5 MiB: "
            "2.5 MiB too little."
        )


class TestIsFull:
    def test_knows_what_the_system_and_safetensors_raise(self, tmp_path: Path) -> None:
        with no_room_for_more_than(1000), pytest.raises(Exception, match="os error") as caught:
            save_file({"w": torch.zeros(1000)}, tmp_path / "w.safetensors")
        assert is_full(caught.value)
        assert is_full(OSError(errno.ENOSPC, "No space left on device"))
        assert not is_full(OSError(errno.EACCES, "Permission denied"))
        assert not is_full(ValueError("os error 28"))


class TestARun:
    @pytest.mark.parametrize(("kind", "words"), [("texts", "encoded captions"), ("latents", "16 latents")])
    def test_that_has_no_room_for_what_is_encoded_ends_before_it_is(
        self,
        kind: str,
        words: str,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if kind == "latents":
            shutil.copytree(cache_dir / "texts", tmp_path / "cache" / "texts")
        leave_free(1000, monkeypatch)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        assert train(recipe, tmp_path / "run", tmp_path / "cache") == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "disk_full"
        assert words in outcome.message
        assert not list((tmp_path / "cache" / kind).rglob("*.arrow"))

    def test_that_will_not_fit_ends_before_its_first_step(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        leave_free(1000, monkeypatch)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.retryable) == ("disk_full", True)
        assert "for 4 checkpoints" in outcome.message
        assert losses(tmp_path / "run") == []

    def test_whose_disk_fills_up_while_it_saves_goes_on_and_loses_that_checkpoint_alone(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fill_the_disk_at(4, monkeypatch)
        recipe = make_recipe(
            tmp_path / "r.yaml", base_dir, pictures,
            preview__prompts=[], held_out__every_steps=None, checkpoint__every_steps=2, checkpoint__keep=9,
        )  # fmt: skip
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert isinstance(outcome_of(run_dir.root), Completed)
        (warned,) = (event for event in events_of(run_dir.root) if isinstance(event, events.Warned))
        assert "the checkpoint of step 4 could not be saved" in warned.message
        assert sorted(path.name for path in run_dir.checkpoints.iterdir()) == ["step-00000002", "step-00000006"]
        assert same(weights_of(run_dir.root), weights_of(finished))

    def test_that_cannot_save_when_it_is_stopped_says_so_and_goes_on_from_the_one_before(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recipe = make_recipe(
            tmp_path / "r.yaml", base_dir, pictures,
            preview__prompts=[], held_out__every_steps=None, checkpoint__every_steps=2,
        )  # fmt: skip
        run_dir = RunDir(tmp_path / "run")
        stop_after(3, run_dir.root, monkeypatch)
        fill_the_disk_at(3, monkeypatch)
        assert train(recipe, run_dir.root, cache_dir) == 1
        outcome = outcome_of(run_dir.root)
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.retryable) == ("disk_full", True)
        assert [path.name for path in run_dir.checkpoints.iterdir()] == ["step-00000002"]
        monkeypatch.undo()
        run_dir.control("stop").unlink()
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert same(weights_of(run_dir.root), weights_of(finished))
