"""What the run says: every event to events.jsonl first, then to the terminal and to tracking.

events.jsonl only grows: after a resume the steps since the checkpoint are said again, and of two lines about one
step readers take the later. A line that a kill tore is cut off before the next is written. Knows nothing about
training.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from contracts import events
from contracts.events import Event
from contracts.sizes import size
from trainer.room import is_full

Sink = Callable[[Event], None]
log = logging.getLogger(__name__)

PLAIN_EVERY_S = 5.0
"""Between two lines about steps where there is no terminal."""


class Report:
    """Where events go; ranks other than the first have no sink and stay silent."""

    def __init__(self, *sinks: Sink) -> None:
        self.sinks = list(sinks)

    def __call__(self, event: Event) -> None:
        for sink in self.sinks:
            sink(event)

    def warn(self, message: str, step: int = 0) -> None:
        self(events.Warned(at=time.time(), step=step, message=message))


class EventFile:
    """events.jsonl, a line an event, there at once; those that a full disk has no room for, as soon as it has."""

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._late = b""

    def __call__(self, event: Event) -> None:
        self._late += (event.model_dump_json() + "\n").encode()
        self._write()

    def close(self) -> None:
        self._write()
        os.close(self._handle)
        if self._late:
            log.warning("the disk is full: %d events are not in the file", self._late.count(b"\n"))

    def _write(self) -> None:
        try:
            while self._late:
                self._late = self._late[os.write(self._handle, self._late) :]
        except OSError as error:
            if not is_full(error):
                raise


class JsonLines:
    """Every event as one line of JSON on standard output, for a program that runs this one."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def __call__(self, event: Event) -> None:
        self.file.write(event.model_dump_json() + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.flush()


class Terminal:
    """Progress for a person: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, steps: int, command: str = "") -> None:
        self.file = console.file
        self._console = console
        self._steps = steps
        self._command = command
        """What goes on with a run that was stopped."""
        self._said_at = 0.0
        self._phase = ""
        self._first: events.StepDone | None = None
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"), console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=None, note="")
            self._bar.start()

    def __call__(self, event: Event) -> None:
        match event:
            case events.StepDone():
                self._first = self._first or event
                self._advance("training", event.step, self._steps, self._note(event))
            case events.Progress():
                self._advance(event.phase, event.done, event.total, "")
            case events.Finished(state="stopped"):
                again = f"to go on: {self._command}" if self._command else "the same command goes on"
                self._print(f"stopped {_when(event.step)}; {again}")
            case _:
                self._print(_words(event))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _note(self, event: events.StepDone) -> str:
        parts = [f"loss {event.loss_smooth:.4f}", f"{event.images_per_s:.1f} images/s"]
        if self._first is not None and self._first.step < event.step < self._steps:
            # Of this attempt alone, with all that was done between the steps.
            rate_s = (event.at - self._first.at) / (event.step - self._first.step)
            parts.append(f"{timedelta(seconds=round(rate_s * (self._steps - event.step)))} left")
        if event.memory_bytes is not None:
            parts.append(size(event.memory_bytes))
        return "  ".join(parts)

    def _advance(self, phase: str, done: int, total: int, note: str) -> None:
        if self._bar is not None:
            if phase != self._phase:
                self._bar.reset(self._task, total=total, description=phase)
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif done in (1, total) or phase != self._phase or time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            line = f"{phase} {done}/{total}  {note}".rstrip()
            self._print(line)
        self._phase = phase


class Display:
    """What somebody watches: when they go away, the run goes on unwatched."""

    def __init__(self, shown: JsonLines | Terminal) -> None:
        self._shown = shown
        self._watched = True

    def __call__(self, event: Event) -> None:
        self._while_watched(lambda: self._shown(event))

    def close(self) -> None:
        self._while_watched(self._shown.close)

    def _while_watched(self, show: Callable[[], None]) -> None:
        if not self._watched:
            return
        try:
            show()
        except (OSError, SystemExit) as error:  # rich leaves the program where a pipe is broken
            self._watched = False
            log.warning("nobody reads the output any more (%s); the run goes on", error)
            # What is still in its buffer is written when the process ends, and must not fail then.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError, ValueError):
                os.dup2(nowhere, self._shown.file.fileno())
            os.close(nowhere)


def _words(event: Event) -> str:
    match event:
        case events.Started():
            start = f"resuming after step {event.first_step}" if event.first_step else "starting"
            return (
                f"{start}: {event.steps} steps, {event.images} images, {event.held_out_images} held out, "
                f"{event.trainable_parameters:,} parameters, {event.processes} x {event.device}"
                + ("" if event.exact else " (not bit for bit: see the warnings)")
            )
        case events.HeldOut():
            lowest = ", the lowest after step 0" if event.best else ""
            return f"step {event.step}: held-out loss {event.loss:.4f}{lowest}"
        case events.Preview():
            return f"step {event.step}: preview {event.file}  {event.prompt}"
        case events.CheckpointSaved():
            return f"step {event.step}: saved {event.file}"
        case events.Tracking():
            return f"tracking {event.mode}: {event.where}"
        case events.Paced():
            return f"a step took {event.step_s:.3g} s, {event.ratio:.2f} x its floor of {event.floor_s:.3g} s"
        case events.Warned():
            return f"warning: {event.message}"
        case events.Finished():
            code = f" ({event.code})" if event.code else ""
            return f"{event.state} {_when(event.step)}{code}" + (f": {event.message}" if event.message else "")
    return event.type


def _when(step: int) -> str:
    return f"after step {step}" if step else "before the first step"


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
