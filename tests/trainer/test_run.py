"""A run through the real command line: what it leaves behind, and what it says."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import trainer.judge
import trainer.run
from contracts import events
from contracts.adapter import AdapterHeader
from contracts.rundir import Completed, Environment, Failed, Manifest, RunDir, Stopped
from sdxl.base import identity, load_base
from tests.trainer.tiny import events_of, losses, make_recipe, outcome_of, same, stop_after, train, weights_of
from trainer.files import manifest_entry
from trainer.starting import python

QUIET = {"preview__prompts": [], "held_out__every_steps": None, "measure_floor": False}
TRACE = [1.06589, 1.08724, 1.07401, 0.81735, 0.73679, 1.07614]


class TestTheRunDirectory:
    def test_has_every_file_of_the_contract_and_a_manifest_that_verifies(self, finished: Path) -> None:
        run_dir = RunDir(finished)
        manifest = Manifest.model_validate_json(run_dir.manifest.read_bytes())
        named = {entry.path for entry in manifest.files}
        assert named >= {"weights/tiny.safetensors", "previews/step-00000000-00.png", "previews/step-00000006-00.png"}
        assert all(manifest_entry(finished, finished / entry.path) == entry for entry in manifest.files)
        assert Environment.model_validate_json(run_dir.environment.read_bytes()).threads == 1
        assert not list(finished.rglob(".tmp-*"))

    def test_keeps_as_many_checkpoints_as_asked_and_the_best(self, finished: Path) -> None:
        kept = sorted(path.name for path in RunDir(finished).checkpoints.iterdir())
        outcome = outcome_of(finished)
        assert isinstance(outcome, Completed)
        best = f"step-{outcome.best_step or 0:08d}"
        assert kept == sorted({best, "step-00000005", "step-00000006"})

    def test_ends_with_what_was_learned(self, finished: Path) -> None:
        outcome = outcome_of(finished)
        assert isinstance(outcome, Completed)
        assert outcome.step == 6
        assert outcome.held_out_loss_before is not None
        assert outcome.held_out_loss_after != outcome.held_out_loss_before
        assert outcome.tracking == "off"

    def test_says_every_step_measurement_and_preview_in_order(self, finished: Path) -> None:
        said = events_of(finished)
        steps = [event for event in said if isinstance(event, events.StepDone)]
        assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
        assert [event.step for event in said if isinstance(event, events.HeldOut)] == [0, 3, 6]
        assert [event.step for event in said if isinstance(event, events.Preview)] == [0, 3, 6]
        assert [event.learning_rate for event in steps[:2]] == [0.01, 0.01]
        assert isinstance(said[-1], events.Finished)
        (started,) = (event for event in said if isinstance(event, events.Started))
        assert (started.images, started.held_out_images, started.processes) == (7, 2, 1)

    def test_has_the_losses_it_always_had(self, finished: Path) -> None:
        """A change that should not alter results leaves this trace as it is; one that should shows both."""
        assert losses(finished) == pytest.approx(TRACE, rel=1e-3)


class TestRequestsByFile:
    def test_saves_and_previews_are_made_when_asked_for(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        changes = {"steps": 2, "preview__every_steps": None, "checkpoint__every_steps": None}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **changes)
        run_dir = RunDir(tmp_path / "run")
        (run_dir.root / "control").mkdir(parents=True)
        run_dir.control("save").touch()
        run_dir.control("preview").touch()
        assert train(recipe, run_dir.root, cache_dir) == 0
        said = events_of(run_dir.root)
        assert [event.step for event in said if isinstance(event, events.Preview)] == [0, 1, 2]
        assert [event.step for event in said if isinstance(event, events.CheckpointSaved)] == [1, 2]
        assert not list((run_dir.root / "control").iterdir())

    def test_a_stop_while_a_resumed_run_encodes_names_the_step_it_goes_on_from(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=3, preview__prompts=[])
        run_dir = RunDir(tmp_path / "run")
        stop_after(1, run_dir.root, monkeypatch)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        monkeypatch.undo()
        run_dir.control("stop").touch()
        assert train(recipe, run_dir.root, tmp_path / "cold") == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        assert not run_dir.control("stop").exists()


class TestTheWeights:
    def test_carry_a_header_that_says_what_they_belong_to(self, finished: Path, base_dir: Path) -> None:
        with safe_open(finished / "weights" / "tiny.safetensors", framework="pt") as file:
            header = AdapterHeader.from_metadata(file.metadata())
        assert header is not None
        manifest = Manifest.model_validate_json(RunDir(finished).manifest.read_bytes())
        assert header.base_identity == identity(base_dir)[0] == manifest.base_identity
        assert header.trigger_word == "tok style"
        assert header.config_digest == manifest.config_digest
        assert header.dataset_version == manifest.dataset_digest
        assert (header.rank, header.alpha, header.steps) == (4, 8.0, 6)

    def test_every_layer_was_trained(self, finished: Path) -> None:
        ups = {name: tensor for name, tensor in weights_of(finished).items() if ".lora_B." in name}
        assert len(ups) > 50
        assert all(tensor.abs().max() > 0 for tensor in ups.values())


class TestWhatMoves:
    def test_the_adapter_moves_and_the_base_does_not(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gathered = []
        gather = trainer.run.gather
        monkeypatch.setattr(trainer.run, "gather", lambda *a: gathered.append(gather(*a)) or gathered[0])
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=2, preview__prompts=[])
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        model = gathered[0].objective.model
        model.bank.detach()
        before = load_base(base_dir, dtype=torch.float32, components={"unet"}).unet.state_dict()
        assert same(before, model.base.unet.state_dict())

    def test_full_training_moves_the_whole_unet_and_saves_its_own_keys(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(
            tmp_path / "r.yaml",
            base_dir,
            pictures,
            method="full",
            steps=2,
            precision="bf16",
            optimizer__learning_rate=1e-3,
        )
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        before = load_base(base_dir, dtype=torch.float32, components={"unet"}).unet.state_dict()
        after = weights_of(tmp_path / "run")
        assert after.keys() == before.keys()
        still = [name for name in after if torch.equal(after[name], before[name])]
        assert len(still) < len(after) / 10
        assert all(tensor.dtype == torch.float32 for tensor in after.values())


class TestBf16:
    def test_trains_fp32_adapters_over_a_bf16_base_with_checkpointing(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(
            tmp_path / "r.yaml", base_dir, pictures, precision="bf16", gradient_checkpointing=True, steps=2
        )
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
        for group in ("weights", "optimizer"):
            assert {tensor.dtype for tensor in load_file(checkpoint / f"{group}.safetensors").values()} == {
                torch.float32
            }


class TestFailures:
    def test_an_unknown_error_shows_a_reference_and_keeps_its_words_to_the_log(
        self,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def broken(*arguments: object) -> None:
            raise RuntimeError("secret words")

        monkeypatch.setattr(trainer.run, "gather", broken)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.reference is not None
        shown = "".join(capsys.readouterr()) + outcome.model_dump_json() + RunDir(tmp_path / "run").events.read_text()
        assert outcome.reference in shown
        assert "secret words" not in shown
        logged = RunDir(tmp_path / "run").log.read_text()
        assert outcome.reference in logged
        assert "secret words" in logged

    def test_a_full_disk_is_said_in_words(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

        monkeypatch.setattr(trainer.run, "gather", full)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.retryable) == ("disk_full", True)
        assert str(tmp_path) in outcome.message

    def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights_and_names_its_pictures(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(
            tmp_path / "r.yaml", base_dir, pictures,
            optimizer__learning_rate=1.0, lora__alpha=1e18, optimizer__max_grad_norm=None, preview__prompts=[],
        )  # fmt: skip
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "nan_loss"
        named = {f"{number}.png" for number in range(7) if f"{number}.png" in outcome.message}
        assert named in ({"0.png", "3.png", "6.png"}, {"1.png", "2.png", "4.png", "5.png"})
        newest = max((tmp_path / "run" / "checkpoints").iterdir())
        assert all(tensor.isfinite().all() for tensor in load_file(newest / "weights.safetensors").values())

    def test_a_held_out_loss_that_is_no_number_is_said_before_any_step(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer.judge, "held_out_loss", lambda *_: float("nan"))
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.step) == ("nan_loss", 0)
        assert losses(tmp_path / "run") == []

    def test_a_data_set_with_broken_files_names_all_of_them(
        self, base_dir: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "bad"
        folder.mkdir()
        (folder / "a.png").write_bytes(b"no picture")
        (folder / "b.jpg").write_bytes(b"nor this")
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, folder)
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "dataset_unreadable"
        assert "a.png" in outcome.message
        assert "b.jpg" in outcome.message


class TestStartingAgain:
    def test_a_complete_run_says_so_and_is_left_alone(
        self, finished: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
        assert train(finished.parent / "recipe.yaml", finished, cache_dir) == 0
        assert "already complete" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before

    def test_a_complete_run_refuses_another_configuration_and_keeps_its_outcome(
        self, finished: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["seed=4", "lora.alpha=2", "preview.sampling_steps=3"]
        assert train(finished.parent / "recipe.yaml", finished, cache_dir, *words) == 1
        said = capsys.readouterr().err
        assert "  seed: 3 -> 4\n  lora.alpha: 8.0 -> 2.0\n" in said
        assert "preview" not in said
        assert "start the new one in a new --run-dir" in said
        assert isinstance(outcome_of(finished), Completed)

    def test_a_complete_run_refuses_other_pictures_and_another_start(
        self, finished: Path, cache_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        others = shutil.copytree(pictures, tmp_path / "others")
        (others / "1.png").write_bytes((others / "2.png").read_bytes())
        start = shutil.copy(finished / "weights" / "tiny.safetensors", tmp_path / "start.safetensors")
        words = ["--dataset-dir", str(others), "--init-weights", str(start)]
        assert train(finished.parent / "recipe.yaml", finished, cache_dir, *words) == 1
        said = capsys.readouterr().err
        assert "is complete after 6 steps, of other inputs" in said
        assert "paths.dataset_dir: the data set was" in said
        assert "init_from: it started from the base, is now to start from tiny" in said
        assert "base_dir" not in said
        assert isinstance(outcome_of(finished), Completed)

    def test_a_complete_run_is_complete_when_its_pictures_are_gone(
        self, finished: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "emptied").mkdir()
        words = ["--dataset-dir", str(tmp_path / "emptied")]
        assert train(finished.parent / "recipe.yaml", finished, cache_dir, *words) == 0
        assert "already complete after 6 steps" in capsys.readouterr().out

    def test_a_complete_run_says_what_came_too_late_to_change_anything(
        self, finished: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["preview.sampling_steps=3", "output_name=other"]
        assert train(finished.parent / "recipe.yaml", finished, cache_dir, *words) == 0
        said = capsys.readouterr().out
        assert "already complete after 6 steps; nothing to do. What differs came too late to change anything" in said
        assert "output_name, preview.sampling_steps" in said

    def test_a_base_that_is_not_the_registered_one_is_refused_before_the_first_step(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=2, **QUIET)
        found, _ = identity(base_dir)
        assert train(recipe, tmp_path / "run", cache_dir, "--base-identity", "e" * 64) == 1
        refused = outcome_of(tmp_path / "run")
        assert isinstance(refused, Failed)
        assert (refused.code, refused.step) == ("base_mismatch", 0)
        assert f"it was registered as {'e' * 12}, and is {found[:12]}" in refused.message
        assert train(recipe, tmp_path / "run", cache_dir, "--base-identity", found) == 0

    def test_what_was_refused_before_the_first_step_is_no_hindrance_once_it_is_right(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        (tmp_path / "empty").mkdir()
        wrong = make_recipe(tmp_path / "wrong.yaml", base_dir, tmp_path / "empty", steps=2, **QUIET)
        right = make_recipe(tmp_path / "right.yaml", base_dir, pictures, steps=2, seed=5, **QUIET)
        assert train(wrong, run, cache_dir) == 1
        assert "failed before the first step (empty_dataset): There is no picture" in capsys.readouterr().out
        refused = outcome_of(run)
        assert isinstance(refused, Failed)
        assert (refused.code, refused.step) == ("empty_dataset", 0)
        assert train(right, run, cache_dir) == 0
        said = capsys.readouterr().out
        assert "starting: 2 steps" in said
        assert "warning" not in said
        assert isinstance(outcome_of(run), Completed)

    def test_a_stopped_run_says_what_goes_on_with_it(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        run = tmp_path / "a run"
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=2, **QUIET)
        stop_after(1, run, monkeypatch)
        assert train(recipe, run, cache_dir, "data.flip=false") == 0
        typed = f"{python()} -m trainer {recipe} --run-dir '{run}' --cache-dir {cache_dir} data.flip=false"
        assert f"stopped after step 1; to go on: {typed}\n" in capsys.readouterr().out

    def test_a_base_and_data_that_cannot_be_used_are_said_together(
        self, base_dir: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
        changes = {"loss__zero_terminal_snr": True, "lora__rank_pattern": {"*.nowhere.*": 2}}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, tmp_path / "bad", **changes)
        assert train(recipe, tmp_path / "run", cache_dir) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "invalid_input"
        for words in ("/loss/zero_terminal_snr: needs v-prediction", "*.nowhere.*", "a.png is damaged"):
            assert words in outcome.message
