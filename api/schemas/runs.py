"""What the API answers about runs; what it takes is contracts.run.RunRequest."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from api.schemas.common import Answer, Failure, failure, moment, moment_or_none
from catalog.runs.models import Run, RunPreview
from contracts.events import HeldOut, StepDone
from contracts.plan import Plan
from contracts.run import RUN_REASONS, RunReason, RunStatus


class RunFailure(Failure):
    """Why a run failed, and what to do about it."""

    reference: str | None
    """Finds the trace of an unexpected failure in the run's log."""


class RunDataset(Answer):
    """A frozen version a run trains on."""

    id: str
    name: str
    version: int
    digest: str
    weight: float
    """How often an epoch sees each of its images, relative to weight 1."""


class RunBase(Answer):
    """The base a run trains on."""

    name: str
    identity: str


class RunOut(Answer):
    """One training run."""

    id: str
    name: str
    status: RunStatus
    reason: RunReason
    """Why it is in this status."""
    explanation: str
    """The reason in words a person can act on."""
    recipe: str
    overrides: dict[str, Any]
    dataset: RunDataset
    """The first of them, for runs that have one."""
    datasets: list[RunDataset]
    """Every version that feeds it."""
    dataset_digest: str
    """What names all of them together: of one version with weight 1, its own digest."""
    base: RunBase
    config_digest: str
    step: int
    steps: int
    loss: float | None
    """Smoothed loss of the last step."""
    phase: str | None
    """What it does before the first step, with progress."""
    device: str | None
    attempt: int
    tracking: str | None
    """Where Weights & Biases writes: a URL, or a folder on the worker."""
    seconds_per_step: float | None
    failure: RunFailure | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RunDetail(RunOut):
    """One training run with everything it was created from and what came of it."""

    config: dict[str, Any]
    """Every setting, resolved when the run was created."""
    plan: Plan
    outcome: dict[str, Any] | None
    """The trainer's own summary."""


class MetricsOut(Answer):
    """The curves of a run so far; a step done again after a resume counts once."""

    steps: list[StepDone]
    held_out: list[HeldOut]


class PreviewOut(Answer):
    """A picture made while training."""

    file: str
    step: int
    prompt: str
    seed: int
    sha256: str
    bytes: int
    url: str


def run_out(run: Run) -> RunOut:
    """A run as lists and event streams show it."""
    return RunOut(**_fields(run))


def run_detail(run: Run) -> RunDetail:
    """A run as it is read alone."""
    plan = Plan.model_validate(run.plan)
    return RunDetail(**_fields(run), config=run.config, plan=plan, outcome=run.outcome)


def preview_out(preview: RunPreview) -> PreviewOut:
    """A preview as the API shows it."""
    return PreviewOut(
        file=preview.file,
        step=preview.step,
        prompt=preview.prompt,
        seed=preview.seed,
        sha256=preview.sha256,
        bytes=preview.bytes,
        url=f"/api/v1/images/{preview.sha256}",
    )


def _fields(run: Run) -> dict[str, Any]:
    fed = [RunDataset.model_validate(one) for one in run.datasets]
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "explanation": RUN_REASONS[RunReason(run.reason)],
        "recipe": run.recipe,
        "overrides": run.overrides,
        "dataset": fed[0],
        "datasets": fed,
        "dataset_digest": run.dataset_digest,
        "base": RunBase(name=run.base_name, identity=run.base_identity),
        "config_digest": run.config_digest,
        "step": run.step,
        "steps": run.steps,
        "loss": run.loss,
        "phase": run.phase,
        "device": run.device,
        "attempt": run.attempt,
        "tracking": run.tracking,
        "seconds_per_step": run.seconds_per_step,
        "failure": _failure(run),
        "created_at": moment(run.created_at),
        "started_at": moment_or_none(run.started_at),
        "finished_at": moment_or_none(run.finished_at),
    }


def _failure(run: Run) -> RunFailure | None:
    told = failure(run.failure_code, run.failure_message, run.failure_hint)
    return None if told is None else RunFailure(**told.model_dump(), reference=run.failure_reference)
