from __future__ import annotations

import io

import pytest
from rich.console import Console

from contracts.events import Event, HeldOut, Preview, Progress, Started, StepDone, Tracking, Warned
from patina.watch import RunView, absorb, line, picture, remaining_s, sparkline


def _started(steps: int = 100, first_step: int = 0) -> Started:
    return Started(
        at=0.0,
        steps=steps,
        first_step=first_step,
        images=10,
        held_out_images=1,
        trainable_parameters=5,
        processes=1,
        device="cpu",
        exact=True,
    )


def _step(step: int, loss: float = 0.5, at: float | None = None) -> StepDone:
    return StepDone(
        at=float(step) if at is None else at,
        step=step,
        loss=loss,
        loss_smooth=loss,
        learning_rate=1e-4,
        grad_norm=1.0,
        images_per_s=8.0,
    )


def _seen(*events: Event) -> RunView:
    view = RunView(name="my-run")
    for event in events:
        absorb(view, event)
    return view


def _drawn(view: RunView) -> str:
    output = io.StringIO()
    Console(file=output, width=120, force_terminal=False).print(picture(view))
    return output.getvalue()


class TestAbsorb:
    def test_the_time_left_follows_the_recent_speed(self) -> None:
        slow_then_fast = [_step(1, at=0.0), *(_step(s, at=1000.0 + 2 * s) for s in range(2, 61))]
        assert remaining_s(_seen(_started(), *slow_then_fast)) == pytest.approx(2 * 40)

    def test_the_time_left_is_unknown_at_first_and_at_the_end(self) -> None:
        assert remaining_s(_seen(_started(), _step(1))) is None
        assert remaining_s(_seen(_started(steps=2), _step(1), _step(2))) is None

    def test_a_resume_starts_measuring_anew(self) -> None:
        view = _seen(_started(), _step(50), _step(51), _started(first_step=25), _step(26, at=900.0))
        assert (view.step, remaining_s(view)) == (26, None)


class TestPicture:
    def test_it_shows_all_that_a_watcher_asks_for(self) -> None:
        view = _seen(
            _started(),
            Tracking(at=0, mode="offline", where="runs/x/wandb"),
            HeldOut(at=0, step=0, loss=0.8),
            *(_step(s, loss=1.0 / s) for s in range(1, 51)),
            HeldOut(at=0, step=50, loss=0.6),
            Preview(at=0, step=50, file="step-50-0.png", prompt="a cat", seed=0),
            Warned(at=0, message="careful [now]"),
        )
        shown = _drawn(view)
        for words in ("50/100", "0.0200", "0.8000 → 0.6000", "0.0001", "8.00 images/s", "50 s", "step-50-0.png"):
            assert words in shown
        assert "runs/x/wandb" in shown
        assert "! careful [now]" in shown

    def test_before_the_first_step_it_shows_what_is_done(self) -> None:
        assert "caching 3/10" in _drawn(_seen(Progress(at=0, phase="caching", done=3, total=10)))


class TestLine:
    def test_a_log_gets_some_twenty_steps_and_the_last(self) -> None:
        view = _seen(_started(steps=205))
        told = []
        for step in range(1, 206):
            event = _step(step)
            absorb(view, event)
            told.append(line(view, event))
        lines = [words for words in told if words]
        assert 20 <= len(lines) <= 22
        assert lines[-1].startswith("step 205/205: loss 0.5000")

    def test_progress_is_told_when_it_is_done(self) -> None:
        view = RunView(name="x")
        assert line(view, Progress(at=0, phase="caching", done=3, total=10)) is None
        assert line(view, Progress(at=0, phase="caching", done=10, total=10)) == "caching: 10/10"


class TestSparkline:
    def test_it_falls_with_the_values_and_keeps_to_its_width(self) -> None:
        curve = sparkline([100.0 - i for i in range(1000)], columns=8)
        assert curve == "█▇▆▅▄▃▂▁"

    def test_little_is_drawn_as_little(self) -> None:
        assert sparkline([]) == ""
        assert sparkline([0.5]) == "▁"
