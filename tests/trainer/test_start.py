"""Starting from weights there are, and giving a finished run more steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import events
from contracts.rundir import Completed, RunDir
from contracts.train import parse_config
from sdxl.dialects import Dialect, read, write
from sdxl.formats import read_header, tail_hash
from tests.trainer.tiny import events_of, make_recipe, outcome_of, same, train, weights_of
from trainer.start import parent_of

QUIET = {"preview__prompts": [], "held_out__every_steps": None, "measure_floor": False}


class TestInitWeights:
    @pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
    def test_training_begins_where_the_weights_ended_and_the_header_names_them(
        self, dialect: Dialect, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=2, init_from="tiny@1", **QUIET)
        published, parent = read(finished / "weights" / "tiny.safetensors"), tmp_path / "parent.safetensors"
        write(parent, published.modules, published.metadata, dialect)
        assert train(recipe, tmp_path / "run", cache_dir, "--init-weights", str(parent)) == 0
        before, after = outcome_of(finished), outcome_of(tmp_path / "run")
        assert isinstance(before, Completed)
        assert isinstance(after, Completed)
        assert after.held_out_loss_before == before.held_out_loss_after
        assert not same(weights_of(tmp_path / "run"), weights_of(finished))
        header = read_header(tmp_path / "run" / "weights" / "tiny.safetensors")
        assert header is not None
        assert header.parent is not None
        assert (header.parent.sha256, header.parent.name) == (tail_hash(parent), "tiny@1")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"lora__rank": 8}, "has rank 4 there, 8 here"),
            ({"lora__alpha": 4.0}, "has alpha 8 there, 4 here"),
            ({"lora__targets": "attn"}, "layers are adapted there and not here"),
            ({"lora__dora": True}, "only one of the two is a DoRA"),
            ({"lora__text_encoder": {}}, "layers are adapted here and not there, such as text_encoder."),
            ({"method": "full"}, "'tiny' was trained with method lora, this run's is full"),
        ],
    )
    def test_weights_that_do_not_fit_are_refused_in_words(
        self, changes: dict[str, Any], words: str,
        finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path,
    ) -> None:  # fmt: skip
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **QUIET, **changes)
        parent = finished / "weights" / "tiny.safetensors"
        assert train(recipe, tmp_path / "run", cache_dir, "--init-weights", str(parent)) == 1
        assert words in RunDir(tmp_path / "run").outcome.read_text()

    def test_a_name_without_a_file_says_how_to_give_it(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, init_from="style@best")
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        assert "init_from: is resolved by a server; here, give the file by --init-weights" in capsys.readouterr().err

    def test_a_peft_folder_is_a_start_like_any(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        published = read(finished / "weights" / "tiny.safetensors")
        write(tmp_path / "peft", published.modules, published.metadata, "peft")
        config = parse_config(yaml.safe_load(RunDir(finished).config.read_text()))
        (adapter,) = (tmp_path / "peft").rglob("adapter_model.safetensors")
        assert parent_of(tmp_path / "peft", config, base_dir).sha256 == tail_hash(adapter)


class TestMoreSteps:
    def test_a_complete_run_that_cannot_go_on_is_as_complete_as_before(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        others = shutil.copytree(pictures, tmp_path / "others")
        (others / "1.png").write_bytes((others / "2.png").read_bytes())
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=3, **QUIET)
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        run_dir = RunDir(tmp_path / "run")
        files = (run_dir.config, run_dir.outcome, run_dir.manifest)
        before = [file.read_bytes() for file in files]
        assert train(recipe, run_dir.root, cache_dir, "steps=4", "--dataset-dir", str(others)) == 1
        assert [file.read_bytes() for file in files] == before
        assert train(recipe, run_dir.root, cache_dir, "steps=4") == 0
        assert json.loads(run_dir.outcome.read_text())["step"] == 4

    @pytest.mark.slow
    def test_a_finished_run_with_a_constant_rate_goes_on_exactly(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        steady = QUIET | {"optimizer__schedule": "constant"}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=4, **steady)
        assert train(recipe, tmp_path / "whole", cache_dir) == 0
        assert train(recipe, tmp_path / "run", cache_dir, "steps=2") == 0
        assert train(recipe, tmp_path / "run", cache_dir, "steps=4") == 0
        *_, started = (event for event in events_of(tmp_path / "run") if isinstance(event, events.Started))
        assert (started.first_step, started.exact) == (2, True)
        assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
        ended = outcome_of(tmp_path / "run")
        assert isinstance(ended, Completed)
        assert ended.step == 4

    def test_one_whose_schedule_had_ended_goes_on_and_says_what_that_means(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **QUIET)
        assert train(recipe, tmp_path / "run", cache_dir, "steps=3") == 0
        assert train(recipe, tmp_path / "run", cache_dir, "steps=4") == 0
        said = events_of(tmp_path / "run")
        *_, started = (event for event in said if isinstance(event, events.Started))
        assert (started.first_step, started.exact) == (3, False)
        assert any("steps was 3, is 4" in event.message for event in said if isinstance(event, events.Warned))

    def test_fewer_steps_or_another_seed_beside_are_another_run(
        self, finished: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for more in (["steps=5"], ["steps=7", "seed=4"]):
            assert train(finished.parent / "recipe.yaml", finished, cache_dir, *more) == 1
            assert "is complete after 6 steps, with other settings" in capsys.readouterr().err
