"""Checkpoints: whole or not used, whatever happens while one is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import trainer.checkpoint
import trainer.files
from contracts.failures import PatinaError
from contracts.rundir import Environment, RunDir
from contracts.train import TrainConfig, parse_config
from trainer.checkpoint import (
    RunState,
    check_resumable,
    environment_changes,
    find_checkpoint,
    save_checkpoint,
)

ENVIRONMENT = Environment(
    python="3", platform="Linux", cpu_capability="AVX2", threads=1, processes=1, device="cpu", versions={"torch": "1"}
)


def state_of(step: int, config: TrainConfig | None = None) -> RunState:
    return RunState(
        step=step,
        config=config or TrainConfig(),
        environment=ENVIRONMENT,
        base_identity="a" * 64,
        dataset_digest="b" * 64,
        train_seconds=1.5,
        loss_smooth=0.1,
        loss_first_sum=0.2,
        loss_last_sum=0.3,
        held_out_before=None,
    )


def save(run_dir: RunDir, step: int, keep: int = 2) -> Path:
    groups = {group: {"w": torch.full((4,), float(step))} for group in ("weights", "optimizer")}
    return save_checkpoint(run_dir, state_of(step), groups, keep=keep)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


class TestFindCheckpoint:
    def test_gives_the_newest_with_all_of_its_state(self, run_dir: RunDir) -> None:
        save(run_dir, 1)
        save(run_dir, 2)
        found, broken = find_checkpoint(run_dir)
        assert found is not None
        assert found.state == state_of(2)
        assert found.tensors("optimizer")["w"].tolist() == [2.0] * 4
        assert broken == []

    @pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
    @pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
    def test_falls_back_from_a_damaged_one_and_says_so(
        self, run_dir: RunDir, name: str, damage: Callable[[Path], None]
    ) -> None:
        save(run_dir, 1)
        damage(save(run_dir, 2) / name)
        found, broken = find_checkpoint(run_dir)
        assert found is not None
        assert found.state.step == 1
        assert len(broken) == 1
        assert "step-00000002" in broken[0]

    def test_finds_none_in_an_empty_run(self, run_dir: RunDir) -> None:
        assert find_checkpoint(run_dir) == (None, [])


class TestSaveCheckpoint:
    def test_deletes_older_ones_only_after_the_new_one_is_there(
        self, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(run_dir, 1, keep=1)
        discarded = []

        def watching(folder: Path) -> None:
            found, _ = find_checkpoint(run_dir)
            assert found is not None
            assert found.state.step == 2
            discarded.append(folder.name)

        monkeypatch.setattr(trainer.checkpoint, "discard", watching)
        save(run_dir, 2, keep=1)
        assert discarded == ["step-00000001"]

    def test_a_crash_at_any_call_to_the_disk_leaves_a_whole_checkpoint(
        self, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = {"left": 10**6}

        def failing(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                calls["left"] -= 1
                if calls["left"] == 0:
                    raise KeyboardInterrupt
                return real(*arguments, **named)

            return call

        for module, name in ((os, "replace"), (os, "fsync"), (trainer.checkpoint, "save_file")):
            monkeypatch.setattr(module, name, failing(getattr(module, name)))
        save(run_dir, 1)
        points = 0
        for crash_at in range(1, 100):
            calls["left"] = crash_at
            try:
                save(run_dir, 1 + crash_at, keep=1)
            except KeyboardInterrupt:
                points += 1
            else:
                break
            calls["left"] = 10**6
            found, broken = find_checkpoint(run_dir)
            assert found is not None
            assert broken == []
            assert found.tensors("weights")["w"].tolist() == [float(found.state.step)] * 4
        assert points > 8

    def test_replaces_a_damaged_one_of_the_same_step(self, run_dir: RunDir) -> None:
        truncate(save(run_dir, 2) / "weights.safetensors")
        save(run_dir, 2)
        found, broken = find_checkpoint(run_dir)
        assert found is not None
        assert broken == []


class TestCheckResumable:
    def check(self, processes: int = 1, digest: str = "b" * 64, **changes: object) -> list[str]:
        config = parse_config({}, {key.replace("__", "."): value for key, value in changes.items()})
        saved = state_of(5)
        return check_resumable(saved, config, base_identity="a" * 64, dataset_digest=digest, processes=processes)

    def test_names_every_difference_that_would_change_the_result(self) -> None:
        with pytest.raises(PatinaError) as caught:
            self.check(seed=1, optimizer__learning_rate=0.5, digest="c" * 64)
        for words in ("seed was 0, is 1", "optimizer.learning_rate was 0.0001, is 0.5", "the data set was"):
            assert words in caught.value.message
        assert caught.value.code == "checkpoint_mismatch"

    def test_lets_previews_tracking_and_saving_change(self) -> None:
        assert self.check(preview__sampling_steps=3, tracking__enabled=False, checkpoint__keep=5) == []

    def test_lets_a_step_be_cut_otherwise_but_says_it_is_not_exact(self) -> None:
        assert len(self.check(batch_size=2, gradient_accumulation_steps=2)) == 2
        assert len(self.check(batch_size=2, processes=2)) == 1

    def test_refuses_a_step_of_another_size(self) -> None:
        with pytest.raises(PatinaError, match="pictures in one optimiser step were 4, are 8"):
            self.check(processes=2)


class TestEnvironmentChanges:
    def test_name_threads_and_versions(self) -> None:
        now = ENVIRONMENT.model_copy(update={"threads": 2, "versions": {"torch": "2"}})
        assert environment_changes(state_of(1), now) == ["threads was 1, is 2", "torch was 1, is 2"]
        assert environment_changes(state_of(1), ENVIRONMENT) == []
