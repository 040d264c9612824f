"""The command line: refuses before torch is loaded, plans, and says what it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.events import EVENT, Finished
from contracts.fitting import ALLOWANCE_BYTES
from contracts.rundir import Failed, RunDir, Stopped
from tests.trainer.tiny import empty_cache, environment, make_pictures, make_recipe, name_concept, outcome_of
from trainer.cli import main
from trainer.folder import end, only_trainer
from trainer.recipe import read_recipe


class TestRefusals:
    def test_a_wrong_recipe_is_refused_before_torch_is_loaded_and_recorded(self, tmp_path: Path) -> None:
        recipe = tmp_path / "r.yaml"
        recipe.write_text("steps: -1\nprecison: bf16\n")
        (tmp_path / "run").mkdir()
        code = (
            "import sys; from trainer.cli import main; status = main(sys.argv[1:]);"
            "assert not {'torch', 'diffusers', 'accelerate'} & set(sys.modules); sys.exit(status)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(recipe), "--run-dir", str(tmp_path / "run")],
            env=environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        for words in ("steps:", "precison: there is no such setting", "paths.base_dir", "paths.dataset_dir"):
            assert words in done.stderr
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "invalid_input"
        assert "precison" in outcome.message

    def test_a_refused_command_is_not_the_outcome_of_a_run_that_is_under_way(self, tmp_path: Path) -> None:
        recipe, run_dir = tmp_path / "r.yaml", RunDir(tmp_path / "run")
        recipe.write_text("stpes: 20\n")
        with only_trainer(run_dir):
            assert main([str(recipe), "--run-dir", str(run_dir.root)]) == 1
            assert not run_dir.outcome.exists()

    def test_nor_of_one_that_ended_before(self, tmp_path: Path) -> None:
        recipe, run_dir = tmp_path / "r.yaml", RunDir(tmp_path / "run")
        recipe.write_text("stpes: 20\n")
        run_dir.root.mkdir()
        end(run_dir, Stopped(step=200))
        assert main([str(recipe), "--run-dir", str(run_dir.root)]) == 1
        assert outcome_of(run_dir.root) == Stopped(step=200)

    def test_a_run_directory_in_use_is_refused(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        with only_trainer(RunDir(tmp_path / "run")):
            assert main([str(recipe), "--run-dir", str(tmp_path / "run"), "--cache-dir", str(cache_dir)]) == 1
        assert "Another trainer works" in capsys.readouterr().err
        assert not (tmp_path / "run" / "outcome.json").exists()

    def test_a_run_directory_that_cannot_be_made_is_refused(
        self, base_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        (tmp_path / "file").touch()
        assert main([str(recipe), "--run-dir", str(tmp_path / "file" / "run")]) == 1
        assert "cannot be written" in capsys.readouterr().err

    def test_with_json_events_a_refusal_is_an_event_and_nothing_else(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [str(tmp_path / "none.yaml"), "--run-dir", str(tmp_path / "run"), "--json-events"]
        assert main(words) == 1
        told = capsys.readouterr()
        event = EVENT.validate_json(told.out)
        assert isinstance(event, Finished)
        assert (event.state, event.code, told.err) == ("failed", "invalid_input", "")
        assert event.message.endswith(
            "No such file or directory. Recipes are YAML files; docs/recipes.md lists every setting."
        )

    def test_what_it_says_is_for_whoever_typed_it(
        self, base_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        assert main([str(tmp_path / "none.yaml"), "--run-dir", str(tmp_path / "run")]) == 1
        assert capsys.readouterr().err == (
            f"error (invalid_input): The recipe {tmp_path}/none.yaml cannot be read.\n"
            "  No such file or directory\n"
            "Recipes are YAML files; docs/recipes.md lists every setting.\n"
        )
        assert main([str(recipe), "--dataset-dir", "/no/data", "lora.rnak=3", "--run-dir", str(tmp_path / "run")]) == 1
        assert capsys.readouterr().err == (
            f"error (invalid_input): {recipe} cannot be trained.\n"
            "  lora.rnak: there is no such setting; did you mean lora.rank?\n"
            "  --dataset-dir /no/data does not exist\n"
            "docs/recipes.md lists every setting.\n"
        )
        assert not (tmp_path / "run").exists()


class TestPlan:
    def test_says_what_a_run_takes(
        self, base_dir: Path, pictures: Path, known_shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        # A cache of its own: in the shared one another test's run may have left what its steps took.
        words = ["plan", str(recipe), "--cache-dir", str(empty_cache(tmp_path / "cache", known_shapes))]
        assert main([*words, "--json", "--processes", "2"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (plan["images"], plan["held_out_images"], plan["global_batch"]) == (7, 2, 8)
        assert plan["buckets"] == {"48x80": 3, "64x64": 4}
        assert plan["seconds_per_step"] is None
        assert main(words) == 0
        assert "--probe N" in capsys.readouterr().out

    def test_class_pictures_of_the_data_set_are_no_pictures_of_the_subject(
        self, base_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = make_pictures(tmp_path / "pictures", train=6, held_out=2)
        # Of those that are trained on four, of those that are held out one.
        name_concept(folder, "cat", range(2, 7))
        prior = {"class_prompt": "a cat", "concept": "cat", "images": 4}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, folder, prior=prior)
        assert main(["plan", str(recipe), "--cache-dir", str(cache_dir), "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (plan["images"], plan["held_out_images"], sum(plan["buckets"].values())) == (2, 1, 2)

    def test_a_run_that_does_not_fit_is_refused_with_what_makes_it_fit(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, batch_size=64)
        words = ["plan", str(recipe), "--cache-dir", str(cache_dir)]
        assert main([*words, "--json"]) == 0
        taken = json.loads(capsys.readouterr().out)["memory_total"]
        limit = f"{(taken + ALLOWANCE_BYTES - 2**20) / 2**20:.0f}MB"
        assert main([*words, "--memory", limit]) == 1
        told = capsys.readouterr().err
        assert "The run's tensors take" in told
        assert "It fits with batch_size=32 gradient_accumulation_steps=4" in told
        assert main([*words, "--fit", limit]) == 0
        fitted = tmp_path / "fitted.yaml"
        fitted.write_text(capsys.readouterr().out)
        again = read_recipe(fitted)
        assert (again.base_dir, again.datasets[0].path) == (base_dir, pictures)
        config = again.config
        assert (config.batch_size, config.gradient_accumulation_steps) == (32, 4)
        assert main([*words, "--fit", limit, "--json"]) == 0
        fitting = json.loads(capsys.readouterr().out)["fitting"]
        assert [change["overrides"] for change in fitting["changes"]] == [
            {"batch_size": 32, "gradient_accumulation_steps": 4}
        ]
        assert main([*words, "--fit", "10MB"]) == 1
        told_all = capsys.readouterr()
        assert told_all.out == ""
        assert "It would not fit even with" in told_all.err

    def test_a_run_that_does_not_fit_ends_before_a_weight_is_read_with_what_makes_it_fit(
        self, base_dir: Path, pictures: Path, known_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def reading(*args: object) -> None:
            raise AssertionError("weights are read")

        monkeypatch.setattr("sdxl.files.tensors", reading)
        monkeypatch.setattr("trainer.identify.identity", reading)
        # Adapters so small that no rank below is tried, and nothing to preview: only the batch can be made smaller.
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, batch_size=64, lora__rank=4)
        cache = str(empty_cache(tmp_path / "cache", known_shapes))
        for limit, words in (("1100MB", "It fits with batch_size="), ("50MB", "It would not fit even with")):
            run_dir = tmp_path / limit
            assert main([str(recipe), "--run-dir", str(run_dir), "--cache-dir", cache, "--memory", limit]) == 1
            outcome = outcome_of(run_dir)
            assert isinstance(outcome, Failed)
            assert (outcome.code, outcome.step, outcome.retryable) == ("out_of_memory", 0, False)
            assert words in outcome.hint

    def test_a_run_without_a_cache_is_held_to_what_that_takes(
        self, base_dir: Path, pictures: Path, known_shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        cache = ["--cache-dir", str(empty_cache(tmp_path / "cache", known_shapes))]
        assert main(["plan", str(recipe), "--json", *cache]) == 0
        taken = json.loads(capsys.readouterr().out)["memory_total"]
        enough = f"{(taken + ALLOWANCE_BYTES) / 2**20 + 0.01:.2f}MiB"
        assert main(["plan", str(recipe), "--memory", enough, *cache]) == 0
        words = [str(recipe), "--run-dir", str(tmp_path / "run"), "--memory", enough, "--no-cache", *cache]
        assert main(words) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "out_of_memory"

    def test_an_amount_of_memory_that_is_none_is_misuse(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["plan", "r.yaml", "--memory", "much"])
        assert ended.value.code == 2
        assert "no amount of memory" in capsys.readouterr().err

    def test_a_probe_runs_steps_whose_seconds_later_plans_know(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # A rank that no other run of the tests has.
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, lora__rank=3)
        words = ["plan", str(recipe), "--cache-dir", str(cache_dir), "--json"]
        assert main([*words, "--probe", "2"]) == 0
        probed = json.loads(capsys.readouterr().out)["seconds_per_step"]
        assert probed > 0
        assert main([*words, "steps=500"]) == 0
        assert json.loads(capsys.readouterr().out)["seconds_per_step"] == probed
        assert main([*words, "batch_size=1"]) == 0
        assert json.loads(capsys.readouterr().out)["seconds_per_step"] is None
