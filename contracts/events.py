"""The lines of events.jsonl: what a trainer says while it works, one JSON object a line.

The worker copies them to the database and the API streams them; none of the three adds a word.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from contracts.config import Frozen
from contracts.failures import FailureCode
from contracts.mixing import Share


class _Event(Frozen):
    at: float
    """Unix time in seconds."""

    step: int = 0
    """Optimiser steps done when it was said."""


class Started(_Event):
    """The trainer has read its configuration; ``first_step`` is above zero when it resumes."""

    type: Literal["started"] = "started"
    steps: int
    first_step: int
    images: int
    """What an epoch sees, repeats and weights counted; on average where not every epoch has the same."""
    held_out_images: int
    datasets: tuple[Share, ...] = ()
    """The versions it trains on, by digest, and their weights."""
    trainable_parameters: int
    processes: int
    device: str
    exact: bool
    """False when a resume goes on under other threads, CPU capability or library versions."""


class Progress(_Event):
    """Work before the first step, or after the last: ``phase`` is loading, caching, encoding or exporting."""

    type: Literal["progress"] = "progress"
    phase: str
    done: int
    total: int


class StepDone(_Event):
    """One optimiser step."""

    type: Literal["step"] = "step"
    loss: float
    loss_smooth: float
    learning_rate: float
    learning_rates: dict[str, float] = Field(default_factory=dict)
    """Of each group of parameters that has its own: the UNet, a text encoder; the first is ``learning_rate``."""
    grad_norm: float
    """Before clipping; zero where the step was skipped."""
    skipped: bool = False
    """The fp16 gradients overflowed: the weights and the optimiser stayed as they were, the loss scale was halved."""
    loss_scale: float | None = None
    """What the loss was multiplied by before the backward pass; null outside fp16."""
    adapter_norm: float | None = None
    """Of everything that is trained: with LoRA the adapters."""
    images_per_s: float
    memory_bytes: int | None = None
    """The most the device has held so far; on a CPU the process's own."""


class HeldOut(_Event):
    """The loss on the held-out split, comparable between steps and runs of one dataset version."""

    type: Literal["held_out"] = "held_out"
    loss: float
    best: bool = False
    """The lowest after a step of this run so far."""


class Preview(_Event):
    """A picture was written to ``previews/``; ``file`` is its name there."""

    type: Literal["preview"] = "preview"
    file: str
    prompt: str
    seed: int


class CheckpointSaved(_Event):
    """``checkpoints/step-N`` is complete."""

    type: Literal["checkpoint"] = "checkpoint"
    file: str


class Tracking(_Event):
    """Where Weights & Biases writes: a URL when online, a folder when offline, or why it is off."""

    type: Literal["tracking"] = "tracking"
    mode: Literal["online", "offline", "off", "degraded"]
    where: str


class Paced(_Event):
    """What the run's steps cost beside their floor: the bare UNet's forward and backward to the input, same shape."""

    type: Literal["pace"] = "pace"
    step_s: float
    """Median of the steps of the shape that most had."""
    floor_s: float
    ratio: float


class Warned(_Event):
    """Something the user should know that does not stop the run."""

    type: Literal["warning"] = "warning"
    message: str


class Finished(_Event):
    """The last line of a run that ended by itself; the outcome file says the same."""

    type: Literal["finished"] = "finished"
    state: Literal["completed", "stopped", "failed"]
    code: FailureCode | None = None
    message: str = ""


Event = Annotated[
    Started | Progress | StepDone | HeldOut | Preview | CheckpointSaved | Tracking | Paced | Warned | Finished,
    Field(discriminator="type"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Parses one line: ``EVENT.validate_json(line)``."""
