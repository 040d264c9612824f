"""Events: whole lines only, also after a kill; words for a person beside them."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from contracts import events
from contracts.events import EVENT
from trainer.report import EventFile, JsonLines, Report, Terminal


class TestEventFile:
    def test_cuts_off_a_torn_line_and_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        whole = events.Warned(at=1.0, message="é").model_dump_json() + "\n"
        path.write_text(whole + '{"type": "warn')
        file = EventFile(path)
        file(events.Warned(at=2.0, message="after"))
        file.close()
        lines = path.read_text().splitlines()
        assert [EVENT.validate_json(line).at for line in lines] == [1.0, 2.0]

    def test_a_line_is_there_as_soon_as_it_is_said(self, tmp_path: Path) -> None:
        file = EventFile(tmp_path / "events.jsonl")
        Report(file).warn("now")
        assert "now" in (tmp_path / "events.jsonl").read_text()
        file.close()


class TestTerminal:
    def test_shows_loss_speed_and_time_left_on_a_terminal(self) -> None:
        shown = io.StringIO()
        terminal = Terminal(Console(file=shown, force_terminal=True, width=120), steps=10)
        for step in (1, 2):
            terminal(
                events.StepDone(
                    at=step,
                    step=step,
                    loss=0.5,
                    loss_smooth=0.25,
                    learning_rate=1,
                    grad_norm=1,
                    images_per_s=3.0,
                    memory_bytes=1_500_000_000,
                )
            )
        terminal.close()
        for words in ("0.2500", "3.0 images/s", "2/10", "0:00:08 left", "1.4 GiB"):
            assert words in shown.getvalue()

    def test_writes_plain_lines_elsewhere(self) -> None:
        shown = io.StringIO()
        terminal = Terminal(Console(file=shown, force_terminal=False, width=40), steps=10)
        terminal(events.Started(at=0, steps=10, first_step=4, images=1, held_out_images=0, trainable_parameters=5,
                                processes=1, device="cpu", exact=False))  # fmt: skip
        terminal(events.Finished(at=1, step=10, state="failed", code="nan_loss", message="no [red]markup[/red]"))
        terminal.close()
        assert "failed after step 10 (nan_loss): no" in shown.getvalue()
        assert "resuming after step 4" in shown.getvalue()
        assert "[red]" in shown.getvalue()
        assert "\x1b" not in shown.getvalue()

    def test_says_what_goes_on_with_a_run_that_was_stopped(self) -> None:
        shown = io.StringIO()
        for command in ("python -m trainer r.yaml --run-dir out", ""):
            terminal = Terminal(Console(file=shown, force_terminal=False, width=40), 10, command)
            terminal(events.Finished(at=1, step=0, state="stopped"))
            terminal.close()
        assert shown.getvalue().splitlines() == [
            "stopped before the first step; to go on: python -m trainer r.yaml --run-dir out",
            "stopped before the first step; the same command goes on",
        ]

    def test_counts_each_phase_from_its_own_beginning(self) -> None:
        shown = io.StringIO()
        terminal = Terminal(Console(file=shown, force_terminal=False, width=200), steps=2)
        for done in (1, 2):
            terminal(events.Progress(at=0, phase="caching", done=done, total=2))
        terminal(STEP)
        terminal.close()
        assert shown.getvalue().splitlines() == [
            "caching 1/2", "caching 2/2", "training 1/2  loss 0.2500  3.0 images/s",
        ]  # fmt: skip


class TestJsonLines:
    def test_writes_each_event_as_one_line_at_once(self) -> None:
        shown = io.StringIO()
        lines = JsonLines(shown)
        lines(STEP)
        assert EVENT.validate_json(shown.getvalue()) == STEP
        lines(events.Warned(at=2, message="two\nlines"))
        assert len(shown.getvalue().splitlines()) == 2


STEP = events.StepDone(at=1, step=1, loss=0.5, loss_smooth=0.25, learning_rate=1, grad_norm=1, images_per_s=3.0)
