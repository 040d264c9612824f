"""Objectives through the real command line: what is trained on is what previews show and the header says."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from contracts.adapter import AdapterHeader
from contracts.rundir import Failed
from tests.trainer.tiny import losses, make_recipe, outcome_of, train
from trainer.cli import main

QUIET = {"held_out__every_steps": None, "preview__every_steps": None, "checkpoint__every_steps": None}


def header_of(run_dir: Path) -> AdapterHeader:
    with safe_open(run_dir / "weights" / "tiny.safetensors", framework="pt") as file:
        found = AdapterHeader.from_metadata(file.metadata())
    assert found is not None
    return found


class TestZeroTerminalSnr:
    def test_is_sampled_on_in_previews_and_said_in_the_header(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        before = []
        for rescaled in (False, True):
            recipe = make_recipe(
                tmp_path / "r.yaml", base_dir, pictures, steps=1, optimizer__warmup_steps=0,
                loss__prediction_type="v_prediction", loss__zero_terminal_snr=rescaled, **QUIET,
            )  # fmt: skip
            run_dir = tmp_path / f"run-{rescaled}"
            assert train(recipe, run_dir, cache_dir) == 0
            before.append((run_dir / "previews" / "step-00000000-00.png").read_bytes())
            header = header_of(run_dir)
            assert (header.prediction_type, header.zero_terminal_snr) == ("v_prediction", rescaled)
        assert before[0] != before[1]

    @pytest.mark.parametrize("command", ["plan", "train"])
    def test_is_refused_on_a_base_that_predicts_the_noise(
        self, command: str, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, loss__zero_terminal_snr=True)
        if command == "plan":
            assert main(["plan", str(recipe), "--cache-dir", str(cache_dir)]) == 1
            assert "loss.zero_terminal_snr: needs v-prediction" in capsys.readouterr().err
            return
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.step) == ("invalid_input", 0)
        assert not list((tmp_path / "run" / "weights").iterdir())
        assert "/loss/zero_terminal_snr: needs v-prediction" in outcome.message


class TestNoiseOffsetAndTimestepRange:
    def test_change_what_is_learned(self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path) -> None:
        found = []
        for number, loss in enumerate(({}, {"noise_offset": 0.5}, {"min_timestep": 900}, {"max_timestep": 50})):
            changes = {f"loss__{key}": value for key, value in loss.items()}
            recipe = make_recipe(
                tmp_path / "r.yaml", base_dir, pictures, steps=1, optimizer__warmup_steps=0, preview__prompts=[],
                **changes, **QUIET,
            )  # fmt: skip
            assert train(recipe, tmp_path / f"run-{number}", cache_dir) == 0
            found += losses(tmp_path / f"run-{number}")
        assert len(set(found)) == 4
