"""Full fine-tuning, however its memory is saved, goes on bit for bit through the real command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from contracts.events import Event, StepDone
from contracts.rundir import RunDir, Stopped
from tests.trainer.tiny import losses, make_recipe, outcome_of, same, stop_after, train, weights_of
from trainer.cli import INTERRUPTED
from trainer.report import EventFile

QUIET = {
    "preview__prompts": [],
    "held_out__every_steps": None,
    "checkpoint__every_steps": None,
    "export__layouts": [],
    "measure_floor": False,
}
ALONE = {"gradient_accumulation_steps": 1, "optimizer__max_grad_norm": None}
TEXTS = {"full__text_encoder": {"learning_rate": 2e-4}, "full__text_encoder_2": {}}
WAYS: dict[str, dict[str, Any]] = {
    "fp32, fused": {"precision": "fp32", "full__fused_backward": True, **ALONE},
    "bf16": {"precision": "bf16", "full__master_weights": "bf16-stochastic", "gradient_accumulation_steps": 1},
    "bf16, fused, adamw8bit": {
        "precision": "bf16",
        "full__master_weights": "bf16-stochastic",
        "full__fused_backward": True,
        "optimizer__kind": "adamw8bit",
        "gradient_checkpointing": True,
        **ALONE,
    },
    "fp32, text encoders, ema": {"precision": "fp32", "ema__decay": 0.5, **TEXTS},
    "bf16, fused, text encoders": {
        "precision": "bf16",
        "full__master_weights": "bf16-stochastic",
        "full__fused_backward": True,
        **ALONE,
        **TEXTS,
    },
}
QUICK = "fp32, text encoders, ema"


def full_recipe(folder: Path, base: Path, pictures: Path, **changes: Any) -> Path:
    settings = {"method": "full", "steps": 2, "optimizer__learning_rate": 1e-4, **QUIET, **changes}
    return make_recipe(folder / "r.yaml", base, pictures, **settings)


class TestFull:
    @pytest.mark.parametrize("way", [QUICK, *(pytest.param(w, marks=pytest.mark.slow) for w in WAYS if w != QUICK)])
    def test_stopped_and_started_again_ends_in_the_same_weights(
        self,
        way: str,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recipe = full_recipe(tmp_path, base_dir, pictures, **WAYS[way])
        assert train(recipe, tmp_path / "straight", cache_dir) == 0
        run_dir = RunDir(tmp_path / "broken")
        with monkeypatch.context() as patched:
            stop_after(1, run_dir.root, patched)
            assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        saved = load_file(run_dir.checkpoints / "step-00000001" / "weights.safetensors")
        assert {t.dtype for t in saved.values()} == {torch.bfloat16 if way.startswith("bf16") else torch.float32}
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert same(weights_of(run_dir.root), weights_of(tmp_path / "straight"))

    @pytest.mark.slow
    def test_killed_between_checkpoints_ends_in_the_same_weights(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changes = WAYS["bf16, fused, text encoders"] | {"steps": 3, "checkpoint__every_steps": 2}
        recipe = full_recipe(tmp_path, base_dir, pictures, **changes)
        assert train(recipe, tmp_path / "straight", cache_dir) == 0
        run_dir = RunDir(tmp_path / "killed")
        write = EventFile.__call__

        def killed(self: EventFile, event: Event) -> None:
            write(self, event)
            if isinstance(event, StepDone) and event.step == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(EventFile, "__call__", killed)
            assert train(recipe, run_dir.root, cache_dir) == INTERRUPTED
        assert [path.name for path in run_dir.checkpoints.iterdir()] == ["step-00000002"]
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert same(weights_of(run_dir.root), weights_of(tmp_path / "straight"))

    @pytest.mark.parametrize(
        "texts",
        [{}, pytest.param({**TEXTS, "batch_size": 1, "data__caption_dropout": 0.9}, marks=pytest.mark.slow)],
    )
    def test_updating_in_the_backward_pass_changes_no_bit(
        self, texts: dict[str, Any], base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        # Of one picture without its caption the text encoders learn nothing, which is an update too.
        recipe = full_recipe(tmp_path, base_dir, pictures, **WAYS["fp32, fused"], **texts)
        assert train(recipe, tmp_path / "fused", cache_dir) == 0
        assert train(recipe, tmp_path / "after", cache_dir, "full.fused_backward=false") == 0
        assert same(weights_of(tmp_path / "fused"), weights_of(tmp_path / "after"))
        assert losses(tmp_path / "fused") == losses(tmp_path / "after")
