"""fp16 through the real command line: fp32 adapters, overflows skipped once, and a resume that knows of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import trainer.attempt
from contracts import events
from contracts.rundir import RunDir, Stopped
from tests.trainer.tiny import events_of, make_recipe, outcome_of, same, stop_after, train, weights_of
from trainer.loop import Record

QUIET = {"preview__prompts": [], "held_out__every_steps": None, "checkpoint__every_steps": None}
TOO_LARGE = 2.0**27
"""A loss scale at which fp16 gradients of the tiny base overflow."""


def steps_of(run_dir: Path) -> list[events.StepDone]:
    return [event for event in events_of(run_dir) if isinstance(event, events.StepDone)]


class TestFp16:
    @pytest.mark.slow
    def test_skips_each_overflow_once_and_goes_on_bit_for_bit(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer.attempt, "Record", lambda: Record(loss_scale=TOO_LARGE))
        recipe = make_recipe(
            tmp_path / "r.yaml", base_dir, pictures, precision="fp16", steps=16, batch_size=1,
            gradient_accumulation_steps=1, **QUIET,
        )  # fmt: skip
        assert train(recipe, tmp_path / "straight", cache_dir) == 0
        steps = steps_of(tmp_path / "straight")
        skipped = [event for event in steps if event.skipped]
        assert 0 < len(skipped) < 16
        for before, after in pairwise(steps):
            assert before.loss_scale is not None
            assert after.loss_scale == before.loss_scale / (2 if before.skipped else 1)
        assert all(event.grad_norm > 0 for event in steps if not event.skipped)
        # AdamW has counted the steps that were taken, and no other.
        state = load_file(tmp_path / "straight" / "checkpoints" / "step-00000016" / "optimizer.safetensors")
        assert state["unet/step"].item() == 16 - len(skipped)
        assert {tensor.dtype for tensor in weights_of(tmp_path / "straight").values()} == {torch.float32}

        run_dir = RunDir(tmp_path / "broken")
        with monkeypatch.context() as patched:
            stop_after(1, run_dir.root, patched)
            assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        assert steps_of(run_dir.root)[0].skipped
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert [event.skipped for event in steps_of(run_dir.root)] == [event.skipped for event in steps]
        assert same(weights_of(run_dir.root), weights_of(tmp_path / "straight"))
