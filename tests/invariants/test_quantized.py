"""Adapters over a quantised base: fp32, bound to the original, going on bit for bit through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contracts.rundir import Manifest, RunDir, Stopped
from sdxl.base import identity
from tests.trainer.tiny import losses, make_recipe, outcome_of, same, stop_after, train, weights_of

QUIET = {"preview__prompts": [], "held_out__every_steps": None, "checkpoint__every_steps": None}


class TestQuantisedBase:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["nf4", "int8"])
    def test_stopped_and_started_again_ends_in_the_same_weights(
        self,
        kind: str,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, quantize=kind, precision="bf16", steps=2, **QUIET)
        assert train(recipe, tmp_path / "straight", cache_dir) == 0
        run_dir = RunDir(tmp_path / "broken")
        with monkeypatch.context() as patched:
            stop_after(1, run_dir.root, patched)
            assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        assert train(recipe, run_dir.root, cache_dir) == 0
        weights = weights_of(run_dir.root)
        assert same(weights, weights_of(tmp_path / "straight"))
        assert losses(run_dir.root) == losses(tmp_path / "straight")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        assert all(tensor.abs().max() > 0 for name, tensor in weights.items() if ".lora_B." in name)
        manifest = Manifest.model_validate_json(run_dir.manifest.read_bytes())
        assert manifest.base_identity == identity(base_dir)[0]
