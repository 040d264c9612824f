"""Every kind of optimiser goes on from a checkpoint bit for bit, through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts import events
from contracts.rundir import RunDir, Stopped
from tests.trainer.tiny import events_of, make_recipe, outcome_of, same, stop_after, train, weights_of

QUIET = {"preview__prompts": [], "held_out__every_steps": None, "checkpoint__every_steps": None}


class TestEveryKind:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["adamw8bit", "paged-adamw8bit", "lion8bit", "adafactor"])
    def test_stopped_and_started_again_ends_in_the_same_weights(
        self,
        kind: str,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, optimizer__kind=kind, steps=3, **QUIET)
        assert train(recipe, tmp_path / "straight", cache_dir) == 0
        run_dir = RunDir(tmp_path / "broken")
        with monkeypatch.context() as patched:
            stop_after(1, run_dir.root, patched)
            assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert [e.exact for e in events_of(run_dir.root) if isinstance(e, events.Started)] == [True, True]
        assert same(weights_of(run_dir.root), weights_of(tmp_path / "straight"))
