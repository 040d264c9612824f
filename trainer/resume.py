"""Whether a run can go on from a checkpoint, and whether exactly: changes are named, what would be wrong is refused.

Knows nothing about how a checkpoint is written or what is done with it.
"""

from __future__ import annotations

from dataclasses import asdict

from contracts.adapter import Parent
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Environment, RunDir
from contracts.train import TrainConfig
from trainer.changes import changes
from trainer.checkpoint import Checkpoint, RunState, find_checkpoint
from trainer.environment import differences
from trainer.loop import Record
from trainer.parts import Identified
from trainer.processes import Processes
from trainer.report import Report
from trainer.schedules import peak_share

REGROUPING_FIELDS = frozenset({"batch_size", "gradient_accumulation_steps", "gradient_checkpointing"})
"""Fields that change how a step is computed but not what it computes; a resume under others is not exact."""


def resumable(
    run_dir: RunDir,
    config: TrainConfig,
    found: Identified,
    environment: Environment,
    processes: Processes,
    report: Report,
) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if any, and what makes going on from it inexact; refuses before any work."""
    checkpoint, broken = processes.from_main(find_checkpoint(run_dir) if processes.is_main else None)
    for message in broken:
        report.warn(message)
    if checkpoint is None:
        return None, []
    saved = checkpoint.state
    regrouped = check_resumable(
        saved,
        config,
        base_identity=found.base_identity,
        dataset_digest=found.data.mixture.digest,
        parent=found.parent,
        processes=processes.count,
    )
    changes = [*regrouped, *environment_changes(saved, environment)]
    for change in changes:
        report.warn(f"going on from step {saved.step}, but not bit for bit: {change}", saved.step)
    return checkpoint, changes


def take_up(record: Record, saved: RunState, config: TrainConfig, report: Report) -> None:
    """Go on with what was recorded, but for what settings that are others now make incomparable."""
    for name in asdict(record):
        setattr(record, name, getattr(saved, name))
    if saved.config.steps != config.steps:
        # Those were the last steps of the run as it was planned then.
        record.loss_last_sum, record.loss_last_steps = 0.0, 0
    before, now = saved.config.held_out.timesteps, config.held_out.timesteps
    if record.held_out and before != now:
        record.held_out = ()
        report.warn(
            f"held-out losses were measured at {before} timesteps and are at {now} from here on: they cannot be "
            "compared, so the curve, the best step and stopping early begin anew.",
            record.step,
        )


def check_resumable(
    saved: RunState,
    config: TrainConfig,
    *,
    base_identity: str,
    dataset_digest: str,
    processes: int,
    parent: Parent | None = None,
) -> list[str]:
    """Refuse a resume whose result would be wrong; return the changes after which it is right but not exact.

    Raises:
        PatinaError: CHECKPOINT_MISMATCH naming every difference.
    """
    wrong: list[str] = []
    inexact: list[str] = []
    for change in changes(saved.config, config):
        if change.name == "steps" and config.steps >= saved.step:
            inexact += _rescheduled(saved, config)
        elif not change.is_neutral:
            (inexact if change.section in REGROUPING_FIELDS else wrong).append(change.words)
    pictures = _global_batch(saved.config, saved.environment.processes)
    pictures_now = _global_batch(config, processes)
    if pictures != pictures_now:
        wrong.append(f"pictures in one optimiser step were {pictures}, are {pictures_now}")
    wrong += another("the base", saved.base_identity, base_identity)
    wrong += another("the data set", saved.dataset_digest, dataset_digest)
    if saved.parent != parent:
        wrong.append(f"it started from {called(saved.parent)}, now from {called(parent)}")
    if wrong:
        raise PatinaError(
            FailureCode.CHECKPOINT_MISMATCH,
            f"The checkpoint of step {saved.step} belongs to another run: {'; '.join(wrong)}.",
            "Give it back what it was made with, or start in a new --run-dir.",
        )
    return inexact


def _rescheduled(saved: RunState, config: TrainConfig) -> list[str]:
    """Whether the steps done would have had other learning rates with this many steps in all."""
    before = saved.config.steps
    shares = ((peak_share(n, before, config.optimizer), peak_share(n, config.steps, config.optimizer)) for n in
              range(1, saved.step + 1))  # fmt: skip
    if all(then == now for then, now in shares):
        return []
    return [f"steps was {before}, is {config.steps}: the schedule would have given the steps done other learning rates"]


def another(what: str, before: str, now: str) -> list[str]:
    """That an input has another digest, in words; nothing when it has not."""
    return [] if before == now else [f"{what} was {before[:12]}, is {now[:12]}"]


def called(parent: Parent | None) -> str:
    """What a run starts from, in words."""
    return "the base" if parent is None else parent.name or parent.sha256[:12]


def environment_changes(saved: RunState, now: Environment) -> list[str]:
    """What differs around the run; a resume is exact only when nothing does."""
    return differences(saved.environment, now)


def _global_batch(config: TrainConfig, processes: int) -> int:
    return config.batch_size * config.gradient_accumulation_steps * processes
