"""A run that is judged as it goes: which step is best, what is kept of it, and when nothing is gained any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import trainer.judge
from contracts import events
from contracts.adapter import AdapterHeader
from contracts.failures import InvalidInput
from contracts.rundir import Completed, RunDir, Stopped
from contracts.train import parse_config
from tests.trainer.tiny import events_of, make_recipe, outcome_of, same, train, weights_of
from trainer.curve import draw_curve
from trainer.held_out import Curve, best, gains_nothing

SCRIPT: Curve = ((0, 0.2), (1, 0.9), (2, 0.5), (3, 0.49), (4, 0.6), (5, 0.4), (6, 0.3))
"""Losses by step; step 3 is lower than step 2, but by less than a twentieth of it."""


class TestBest:
    def test_is_the_lowest_after_training_began(self) -> None:
        assert best(SCRIPT) == (6, 0.3)
        assert best(SCRIPT[:4]) == (3, 0.49)
        assert best(SCRIPT[:1]) is None

    def test_of_two_alike_is_the_earlier(self) -> None:
        assert best(((1, 0.5), (2, 0.5))) == (1, 0.5)


class TestGainsNothing:
    def test_counts_measurements_since_the_last_gain(self) -> None:
        assert [gains_nothing(SCRIPT[:length], 2, 0.05) for length in range(1, 8)] == [
            False, False, False, False, True, False, False,
        ]  # fmt: skip

    def test_any_lower_loss_is_a_gain_unless_said_otherwise(self) -> None:
        assert not gains_nothing(SCRIPT[:5], 2, 0.0)

    def test_is_never_so_when_it_is_off(self) -> None:
        assert not gains_nothing(((1, 0.1), (2, 0.2), (3, 0.3)), None, 0.0)


class TestDrawCurve:
    def test_is_a_picture_whatever_the_curve(self) -> None:
        for curve in (SCRIPT, SCRIPT[:1], ((0, 0.5), (1, 0.5)), ((7, 0.1),)):
            assert draw_curve(curve).startswith(b"\x89PNG")


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"held_out.stop_after": 2}, "/held_out/stop_after"),
            ({"held_out.publish": "best"}, "/held_out/publish"),
            (
                {"held_out.publish": "best", "held_out.every_steps": 5, "held_out.keep_best": False},
                "/held_out/publish",
            ),
        ],
    )
    def test_judging_by_what_is_not_measured_or_kept_is_refused(self, changes: dict[str, object], pointer: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config({}, changes)
        assert [error.pointer for error in caught.value.errors] == [pointer]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out losses as SCRIPT has them, whatever the weights."""
    losses = dict(SCRIPT)
    measure = trainer.judge.Judge.measure

    def measuring(self: trainer.judge.Judge) -> trainer.judge.Verdict:
        monkeypatch.setattr(trainer.judge, "held_out_loss", lambda *_: losses[self.record.step])
        return measure(self)

    monkeypatch.setattr(trainer.judge.Judge, "measure", measuring)


JUDGED = {
    "preview__prompts": [], "checkpoint__every_steps": None, "checkpoint__keep": 1, "held_out__every_steps": 1,
    "held_out__stop_after": 2, "held_out__min_gain": 0.05,
}  # fmt: skip


@pytest.mark.usefixtures("scripted")
class TestARunThatGainsNothingAnyMore:
    @pytest.mark.slow
    def test_ends_with_its_best_weights_and_keeps_their_checkpoint(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, held_out__publish="best", **JUDGED)
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        outcome = outcome_of(run_dir.root)
        assert isinstance(outcome, Completed)
        assert (outcome.step, outcome.stopped_early, outcome.weights_step) == (4, True, 3)
        assert (outcome.best_step, outcome.held_out_loss_best, outcome.held_out_loss_after) == (3, 0.49, 0.49)
        assert outcome.held_out_loss_before == 0.2
        assert sorted(folder.name for folder in run_dir.checkpoints.iterdir()) == ["step-00000003", "step-00000004"]
        kept = load_file(run_dir.checkpoint(3) / "weights.safetensors")
        assert all(torch.equal(weights_of(run_dir.root)[name], kept[name]) for name in kept)
        with safe_open(run_dir.weights / "tiny.safetensors", framework="pt") as file:
            header = AdapterHeader.from_metadata(file.metadata())
        assert header is not None
        assert header.steps == 3
        measured = [event for event in events_of(run_dir.root) if isinstance(event, events.HeldOut)]
        assert [event.step for event in measured if event.best] == [1, 2, 3]
        with Image.open(run_dir.curve) as drawn:
            assert drawn.size[0] > drawn.size[1] > 100

    @pytest.mark.slow
    def test_ends_with_its_last_weights_when_nothing_else_is_said(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **JUDGED)
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        outcome = outcome_of(run_dir.root)
        assert isinstance(outcome, Completed)
        assert (outcome.weights_step, outcome.held_out_loss_after) == (None, 0.6)
        last = load_file(run_dir.checkpoint(4) / "weights.safetensors")
        assert all(torch.equal(weights_of(run_dir.root)[name], last[name]) for name in last)


class TestAStopWhileItIsJudged:
    @pytest.mark.slow
    def test_leaves_the_measurement_to_the_next_attempt_and_changes_nothing(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures)
        run_dir = RunDir(tmp_path / "run")
        measure = trainer.judge.held_out_loss

        def interrupted(*arguments: object) -> float | None:
            if (run_dir.checkpoint(2)).exists() and not run_dir.checkpoint(3).exists():
                run_dir.control("stop").touch()
            return measure(*arguments)  # type: ignore[arg-type]  # passed on as they are

        monkeypatch.setattr(trainer.judge, "held_out_loss", interrupted)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=3)
        assert not run_dir.control("stop").exists()
        monkeypatch.undo()
        assert train(recipe, run_dir.root, cache_dir) == 0
        said = events_of(run_dir.root)
        assert [event.step for event in said if isinstance(event, events.HeldOut)] == [0, 3, 6]
        assert [event.step for event in said if isinstance(event, events.Preview)] == [0, 3, 6]
        assert [event.step for event in said if isinstance(event, events.StepDone)] == [1, 2, 3, 4, 5, 6]
        assert same(weights_of(run_dir.root), weights_of(finished))
        first, second = outcome_of(finished), outcome_of(run_dir.root)
        assert isinstance(first, Completed)
        assert isinstance(second, Completed)
        assert (first.best_step, first.held_out_loss_best) == (second.best_step, second.held_out_loss_best)


class TestPreviews:
    def test_touch_neither_the_weights_nor_any_generator(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        preview = trainer.judge.Judge.preview

        def watched(self: trainer.judge.Judge) -> None:
            unet = self.parts.objective.model.base.unet
            before = [(name, p.dtype, p.data_ptr(), p.detach().clone()) for name, p in unet.named_parameters()]
            training, state = unet.training, torch.random.get_rng_state()
            preview(self)
            after = [(name, p.dtype, p.data_ptr(), p.detach()) for name, p in unet.named_parameters()]
            assert [one[:3] for one in before] == [one[:3] for one in after]
            assert all(torch.equal(one[3], two[3]) for one, two in zip(before, after, strict=True))
            assert unet.training == training
            assert torch.equal(torch.random.get_rng_state(), state)
            seen.append({one[1] for one in before})

        monkeypatch.setattr(trainer.judge.Judge, "preview", watched)
        recipe = make_recipe(
            tmp_path / "r.yaml",
            base_dir,
            pictures,
            precision="bf16",
            steps=1,
            held_out__every_steps=None,
            optimizer__warmup_steps=0,
        )
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        assert seen == [{torch.bfloat16, torch.float32}] * 2
        assert len(list(RunDir(tmp_path / "run").previews.iterdir())) == 2
