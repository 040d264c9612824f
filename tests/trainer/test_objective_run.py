"""Objectives through the real command line: what is trained on is what previews show and the header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import trainer.prior
import trainer.run
from contracts import events
from contracts.adapter import AdapterHeader
from contracts.events import Event
from contracts.failures import FailureCode
from contracts.rundir import Failed, RunDir, Stopped
from inference.engine import AdapterUse, Engine, EngineRequest
from tests.trainer.tiny import (
    command,
    environment,
    events_of,
    launch,
    losses,
    make_pictures,
    make_recipe,
    name_concept,
    outcome_of,
    same,
    train,
    weights_of,
)
from trainer.cli import main
from trainer.report import EventFile

QUIET = {"held_out__every_steps": None, "preview__every_steps": None, "checkpoint__every_steps": None}


ALL = {
    "loss__noise_offset": 0.05,
    "loss__masked": {"unmasked_weight": 0.1},
    "ema": {"decay": 0.9},
    "prior": {"class_prompt": "a picture", "images": 3, "weight": 0.5, "sampling_steps": 2},
    "preview__prompts": [],
}
"""Everything of the objective at work, over short and empty slices: 7 pictures in two buckets, 3 class pictures."""


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which two have masks."""
    folder = make_pictures(tmp_path_factory.mktemp("masked"))
    for number in range(2):
        with Image.open(folder / f"{number}.png") as picture:
            mask = Image.new("L", picture.size)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(folder / f"{number}_mask.png")
    return folder


@pytest.fixture(scope="module")
def whole(base_dir: Path, masked: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ALL without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(make_recipe(folder / "r.yaml", base_dir, masked, **ALL), folder / "run", cache_dir) == 0
    return folder / "run"


def header_of(run_dir: Path) -> AdapterHeader:
    with safe_open(run_dir / "weights" / "tiny.safetensors", framework="pt") as file:
        found = AdapterHeader.from_metadata(file.metadata())
    assert found is not None
    return found


class TestZeroTerminalSnr:
    def test_is_sampled_on_in_previews_and_by_the_engine_and_said_in_the_header(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        before, engine = [], Engine(base_dir)
        for rescaled in (False, True):
            recipe = make_recipe(
                tmp_path / "r.yaml", base_dir, pictures, steps=1, optimizer__warmup_steps=0,
                loss__prediction_type="v_prediction", loss__zero_terminal_snr=rescaled, **QUIET,
            )  # fmt: skip
            run_dir = tmp_path / f"run-{rescaled}"
            assert train(recipe, run_dir, cache_dir) == 0
            before.append((run_dir / "previews" / "step-00000000-00.png").read_bytes())
            use = AdapterUse(run_dir.name, run_dir / "weights" / "tiny.safetensors")
            asked = EngineRequest("tok style, a cat", (0,), 64, 64, steps=2, adapters=(use,))
            ((drawn,),) = engine.generate([asked])
            previewed = np.asarray(Image.open(run_dir / "previews" / "step-00000001-00.png"))
            assert np.abs(drawn.astype(int) - previewed.astype(int)).max() <= 1
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


class TestEverythingOfTheObjective:
    @pytest.mark.slow
    def test_goes_on_bit_for_bit_and_makes_no_class_picture_twice(
        self,
        whole: Path,
        base_dir: Path,
        masked: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, masked, **ALL)
        run_dir = RunDir(tmp_path / "run")
        write = EventFile.__call__

        def asking(self: EventFile, event: Event) -> None:
            write(self, event)
            if isinstance(event, events.StepDone) and event.step == 2:
                run_dir.control("stop").touch()

        def made_again(*arguments: object) -> None:
            raise AssertionError("a class picture was made a second time")

        monkeypatch.setattr(EventFile, "__call__", asking)
        monkeypatch.setattr(trainer.prior, "_make", made_again)
        assert train(recipe, run_dir.root, cache_dir, "--no-cache") == 0
        assert outcome_of(run_dir.root) == Stopped(step=3)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert same(weights_of(run_dir.root), weights_of(whole))
        assert losses(run_dir.root) == losses(whole)

    @pytest.mark.slow
    def test_is_the_same_on_two_ranks_as_with_two_accumulated_batches(
        self, whole: Path, base_dir: Path, masked: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, masked, gradient_accumulation_steps=1, **ALL)
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = launch(
            [*words, *command(recipe, tmp_path / "run", tmp_path / "cold")],
            environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (started,) = (event for event in events_of(tmp_path / "run") if isinstance(event, events.Started))
        assert started.processes == 2
        assert same(weights_of(tmp_path / "run"), weights_of(whole))
        assert losses(tmp_path / "run") == losses(whole)

    def test_each_part_of_it_changes_what_is_learned(
        self, whole: Path, base_dir: Path, masked: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        found = [losses(whole)[:1]]
        for number, left_out in enumerate(("loss__noise_offset", "loss__masked", "prior")):
            recipe = make_recipe(tmp_path / "r.yaml", base_dir, masked, **ALL | {left_out: None, "steps": 2} | QUIET)
            assert train(recipe, tmp_path / f"run-{number}", cache_dir) == 0
            found.append(losses(tmp_path / f"run-{number}")[:1])
        assert len({loss for (loss,) in found}) == 4


class TestTheMovingAverage:
    def test_is_what_is_published_and_kept_beside_the_weights_that_are_trained(self, whole: Path) -> None:
        checkpoint = whole / "checkpoints" / "step-00000006"
        live, average = (load_file(checkpoint / f"{group}.safetensors") for group in ("weights", "average"))
        assert not same(live, average)
        assert same(weights_of(whole), average)
        assert header_of(whole).ema_decay == 0.9

    @pytest.mark.slow
    def test_does_not_change_how_the_weights_move(
        self, whole: Path, base_dir: Path, masked: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, masked, **ALL | {"ema": None})
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        assert losses(tmp_path / "run") == losses(whole)
        assert same(
            weights_of(tmp_path / "run"), load_file(whole / "checkpoints" / "step-00000006" / "weights.safetensors")
        )


class TestClassPictures:
    def test_are_made_before_the_first_step_and_never_told_the_trigger_word(
        self, base_dir: Path, masked: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gathered = []
        gather = trainer.run.gather
        monkeypatch.setattr(trainer.run, "gather", lambda *a: gathered.append(gather(*a)) or gathered[0])
        changes = ALL | {"steps": 2, "data__caption_dropout": 0.0, "prior": ALL["prior"] | {"seed": 5}}  # type: ignore[operator]
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, masked, **changes | QUIET)
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        said = [event for event in events_of(tmp_path / "run") if isinstance(event, events.Progress)]
        made = [event for event in said if event.phase == "making class pictures"]
        assert (made[-1].done, made[-1].total, made[-1].step) == (4, 4, 0)
        parts = gathered[0]
        feed = parts.feed
        assert [feed.caption_of(1, index) for index in range(7, len(feed.samples))] == ["a picture"] * 3
        assert feed.caption_of(1, 0).startswith("tok style, ")
        assert {index for batch in parts.prior.schedule.epoch(0) for index in parts.prior.placed(batch).samples} == {
            7,
            8,
            9,
        }

    @pytest.mark.slow
    def test_are_made_by_the_base_as_it_is_kept_in_training(
        self, base_dir: Path, masked: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = []
        load = trainer.prior.load_base
        monkeypatch.setattr(trainer.prior, "load_base", lambda *a, **k: loaded.append(k["quantize"]) or load(*a, **k))
        for number, quantize in enumerate(("int8", None, "int8")):
            changes = ALL | {"steps": 1, "quantize": quantize, "prior": ALL["prior"] | {"seed": 9}}  # type: ignore[operator]
            recipe = make_recipe(tmp_path / "r.yaml", base_dir, masked, optimizer__warmup_steps=0, **changes | QUIET)
            assert train(recipe, tmp_path / f"run-{number}", cache_dir) == 0
        # Those of one are none of the other's.
        assert loaded == ["int8", None]

    def test_of_the_data_set_are_those_of_the_concept_and_only_the_lack_is_made(
        self, base_dir: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_pictures(tmp_path / "pictures", held_out=0)
        name_concept(folder, "a cat", range(2))
        gathered = []
        gather = trainer.run.gather
        monkeypatch.setattr(trainer.run, "gather", lambda *a: gathered.append(gather(*a)) or gathered[0])
        changes = ALL | {"loss__masked": None, "steps": 2, "prior": ALL["prior"] | {"concept": "a cat"}}  # type: ignore[operator]
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, folder, **changes | QUIET)
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        feed = gathered[0].feed
        named = [row.source_name for row in feed.samples]
        assert (set(named[:5]), set(named[5:])) == (
            {f"{number}.png" for number in range(2, 7)},
            {"0.png", "1.png", "class picture 0"},
        )
        assert train(recipe, tmp_path / "other", cache_dir, "prior.concept=dog") == 1
        outcome = outcome_of(tmp_path / "other")
        assert isinstance(outcome, Failed)
        assert outcome.code is FailureCode.INVALID_INPUT
        assert "no picture of the data set has the concept 'dog'; its concepts are a cat" in outcome.message
