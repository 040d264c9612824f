"""Checkpoints: whole or not used, whatever happens while one is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import trainer.checkpoint
import trainer.files
from contracts.rundir import Environment, RunDir
from contracts.train import TrainConfig
from trainer.checkpoint import RunState, find_checkpoint, newer_than, save_checkpoint

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
        held_out=((0, 0.5), (3, 0.4)),
    )


def save(
    run_dir: RunDir, step: int, keep: int = 2, best_step: int | None = None, unusable: Sequence[Path] = ()
) -> Path:
    groups = {group: {"w": torch.full((4,), float(step))} for group in ("weights", "optimizer")}
    return save_checkpoint(run_dir, state_of(step), groups, keep=keep, best_step=best_step, unusable=unusable)


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

    def test_one_that_is_damaged_and_newer_goes_and_does_not_count(self, run_dir: RunDir) -> None:
        """The one a run goes on from is the newest whole one: it must not make way for those that are not."""
        for step in (4, 5, 6):
            save(run_dir, step, keep=9)
        truncate(run_dir.checkpoint(5) / "weights.safetensors")
        truncate(run_dir.checkpoint(6) / "weights.safetensors")
        found, _ = find_checkpoint(run_dir)
        assert found is not None
        assert found.state.step == 4
        save(run_dir, 8, unusable=newer_than(run_dir, 4))
        assert sorted(path.name for path in run_dir.checkpoints.iterdir()) == ["step-00000004", "step-00000008"]

    def test_the_best_stays_beside_the_newest(self, run_dir: RunDir) -> None:
        for step in (1, 2, 3, 4):
            save(run_dir, step, keep=1, best_step=2 if step > 1 else None)
        assert sorted(path.name for path in run_dir.checkpoints.iterdir()) == ["step-00000002", "step-00000004"]
