"""Opening a run directory: what an attempt that was killed left half done is gone before the next one starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sdxl.tensor_files
from contracts.adapter import AdapterHeader
from contracts.rundir import RunDir
from contracts.train import TrainConfig
from sdxl.formats import save_full
from trainer.folder import prepare

HEADER = AdapterHeader(
    name="tiny", method="full", base_identity="a", config_digest="b", dataset_version="c", trigger_word=None, rank=None,
    alpha=None, targets=None, resolution_px=64, prediction_type="epsilon", steps=1, created="2026-01-01T00:00:00+00:00",
)  # fmt: skip


class TestPrepare:
    def test_takes_away_weights_that_were_being_written_so_that_no_manifest_names_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_dir = RunDir(tmp_path)
        prepare(run_dir, TrainConfig())

        def killed(name: object, entry: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(sdxl.tensor_files, "_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            save_full(run_dir.weights / "tiny.safetensors", {"w": torch.zeros(1)}, HEADER)
        assert len(list(run_dir.weights.iterdir())) == 1
        prepare(run_dir, TrainConfig())
        assert list(run_dir.weights.iterdir()) == []
