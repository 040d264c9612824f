"""Full fine-tuning, however its memory is saved, goes on bit for bit through the real command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from contracts.rundir import RunDir, Stopped
from tests.trainer.tiny import losses, make_recipe, outcome_of, same, stop_after, train, weights_of

QUIET = {"preview__prompts": [], "held_out__every_steps": None, "checkpoint__every_steps": None}
ALONE = {"gradient_accumulation_steps": 1, "optimizer__max_grad_norm": None}
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
}


def full_recipe(folder: Path, base: Path, pictures: Path, **changes: Any) -> Path:
    settings = {"method": "full", "steps": 3, "optimizer__learning_rate": 1e-4, **QUIET, **changes}
    return make_recipe(folder / "r.yaml", base, pictures, **settings)


class TestFull:
    @pytest.mark.parametrize(
        "way", ["fp32, fused", pytest.param("bf16", marks=pytest.mark.slow), "bf16, fused, adamw8bit"]
    )
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

    def test_updating_in_the_backward_pass_changes_no_bit(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = full_recipe(tmp_path, base_dir, pictures, **WAYS["fp32, fused"])
        assert train(recipe, tmp_path / "fused", cache_dir) == 0
        assert train(recipe, tmp_path / "after", cache_dir, "full.fused_backward=false") == 0
        assert same(weights_of(tmp_path / "fused"), weights_of(tmp_path / "after"))
        assert losses(tmp_path / "fused") == losses(tmp_path / "after")
