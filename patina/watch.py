"""What is known of a run while it is watched: events come in, a picture or a line goes out.

Knows nothing about where events come from or about the terminal they are shown on.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contracts.events import (
    CheckpointSaved,
    Event,
    Finished,
    HeldOut,
    Paced,
    Preview,
    Progress,
    Started,
    StepDone,
    Tracking,
    Warned,
)
from patina.output import cell, duration, facts

BARS = "▁▂▃▄▅▆▇█"
CURVE_COLUMNS = 48
RECENT_STEPS = 50
"""Steps the speed is averaged over."""
PLAIN_LINES = 20
"""Step lines a run is told in where there is no terminal to redraw."""


@dataclass
class RunView:
    """A run as far as its events have told."""

    name: str
    status: str = "queued"
    reason: str | None = None
    step: int = 0
    steps: int = 0
    phase: str | None = None
    losses: list[float] = field(default_factory=list)
    latest: StepDone | None = None
    held_out: list[tuple[int, float]] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    tracking: str | None = None
    checkpoint: str | None = None
    warnings: list[str] = field(default_factory=list)
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))


def absorb(view: RunView, event: Event) -> None:
    """Take one event into the view. An earlier step than the last means that the run went back to a checkpoint."""
    if isinstance(event, Started):
        view.steps, view.step, view.phase = event.steps, event.first_step, None
        view.recent.clear()
    elif isinstance(event, Progress):
        view.phase = f"{event.phase} {event.done}/{event.total}"
    elif isinstance(event, StepDone):
        view.step, view.latest, view.phase = event.step, event, None
        view.losses.append(event.loss_smooth)
        view.recent.append((event.at, event.step))
    elif isinstance(event, HeldOut):
        view.held_out.append((event.step, event.loss))
    elif isinstance(event, Preview):
        view.previews.append(event.file)
    elif isinstance(event, CheckpointSaved):
        view.checkpoint = event.file
    elif isinstance(event, Tracking):
        view.tracking = event.where if event.mode in {"online", "offline"} else f"{event.mode}: {event.where}"
    elif isinstance(event, Warned):
        view.warnings.append(event.message)


def remaining_s(view: RunView) -> float | None:
    """Seconds to the last step at the speed of the recent ones; None until two steps are known."""
    if len(view.recent) < 2 or view.steps <= view.step:
        return None
    (first_at, first_step), (last_at, last_step) = view.recent[0], view.recent[-1]
    if last_step <= first_step:
        return None
    return (last_at - first_at) / (last_step - first_step) * (view.steps - view.step)


def sparkline(values: Sequence[float], columns: int = CURVE_COLUMNS) -> str:
    """The values as one line of bars, averaged into at most ``columns`` of them."""
    if not values:
        return ""
    count = min(columns, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[min(int((mean - low) / span * len(BARS)), len(BARS) - 1)] for mean in means)


def picture(view: RunView) -> RenderableType:
    """The whole view, for a terminal that is redrawn."""
    head = Table.grid(padding=(0, 1))
    done = f"{view.step}/{view.steps}" if view.steps else ""
    bar = ProgressBar(total=view.steps or 1, completed=view.step, width=CURVE_COLUMNS)
    head.add_row(Text(view.name, style="bold"), cell(view.status), bar, Text(done))
    left = remaining_s(view)
    latest = view.latest
    loss = f"{latest.loss_smooth:.4f}  {sparkline(view.losses)}" if latest else None
    pairs: list[tuple[str, str | None]] = [
        ("doing", view.phase),
        ("loss", loss),
        ("held-out loss", " → ".join(f"{loss:.4f}" for _, loss in view.held_out[-4:]) or None),
        ("learning rate", f"{latest.learning_rate:.3g}" if latest else None),
        ("speed", f"{latest.images_per_s:.2f} images/s" if latest else None),
        ("time left", duration(left) if left is not None else None),
        ("previews", f"{len(view.previews)}, last {view.previews[-1]}" if view.previews else None),
        ("checkpoint", view.checkpoint),
        ("W&B", view.tracking),
        ("why", view.reason),
    ]
    warned = [Text(f"! {message}", style="yellow") for message in view.warnings[-3:]]
    return Group(head, facts(pairs), *warned)


def line(view: RunView, event: Event) -> str | None:
    """One line for a log file, or None for what need not be told; ``view`` has absorbed the event already."""
    if isinstance(event, Started):
        return f"started: {event.steps} steps from {event.first_step}, {event.images} images, on {event.device}"
    if isinstance(event, Progress):
        return f"{event.phase}: {event.done}/{event.total}" if event.done == event.total else None
    if isinstance(event, StepDone):
        every = max(1, view.steps // PLAIN_LINES)
        if event.step % every and event.step != view.steps:
            return None
        left = remaining_s(view)
        eta = f", {duration(left)} left" if left is not None else ""
        return f"step {event.step}/{view.steps}: loss {event.loss_smooth:.4f}, {event.images_per_s:.2f} images/s{eta}"
    if isinstance(event, HeldOut):
        return f"step {event.step}: held-out loss {event.loss:.4f}"
    if isinstance(event, Preview):
        return f"step {event.step}: preview {event.file}"
    if isinstance(event, CheckpointSaved):
        return f"step {event.step}: {event.file} saved"
    if isinstance(event, Tracking):
        return f"W&B: {view.tracking}"
    if isinstance(event, Paced):
        return f"a step took {event.step_s:.3g} s, {event.ratio:.2f} x its floor"
    if isinstance(event, Warned):
        return f"warning: {event.message}"
    return f"trainer: {event.state} {event.message}".rstrip() if isinstance(event, Finished) else None
