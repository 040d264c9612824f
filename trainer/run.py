"""One run from its parts to its weights: go on from a checkpoint if there is one, train, publish.

Knows nothing about the command line, about failures, or about how any of the parts works.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import torch

from contracts import events
from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Completed, Environment, Manifest, Outcome, RunDir, Stopped
from contracts.train import TrainConfig
from sdxl.formats import save_adapter, save_full
from trainer.checkpoint import (
    Checkpoint,
    RunState,
    check_resumable,
    environment_changes,
    find_checkpoint,
    save_checkpoint,
)
from trainer.control import Requests
from trainer.environment import describe_environment
from trainer.files import write_atomically
from trainer.floor import Paces, pace
from trainer.held_out import held_out_loss
from trainer.loop import Actions, Record, summary_steps, train_steps
from trainer.one_by_one import OneByOne
from trainer.optim import make_optimizer
from trainer.parts import Identified, Job, Parts, gather, identify
from trainer.preview import make_previews
from trainer.processes import Processes
from trainer.report import Report
from trainer.tracking import Tracking
from trainer.update import AtOnce, Update
from trainer.weights import Trainable


def train(
    job: Job, run_dir: RunDir, processes: Processes, requests: Requests, report: Report, record: Record
) -> tuple[Outcome, Manifest]:
    """Train to the end or until asked to stop; ``record`` is filled as the run goes.

    Returns:
        How it ended, and what it is of; the manifest's files are added when a completed run is sealed.

    Raises:
        PatinaError: the run cannot start or go on.
        StopRequested: asked to stop before the first step.
    """
    config = job.recipe.config
    environment = describe_environment(processes.device, processes.count)
    if processes.is_main:
        write_atomically(run_dir.environment, environment.model_dump_json(indent=2))
    found = identify(job, processes, report)
    checkpoint, changes = _resumable(run_dir, config, found, environment, processes, report)
    if checkpoint is not None:
        # Before any work, so that a stop or a failure meanwhile names the step that the next attempt goes on from.
        for name in asdict(record):
            setattr(record, name, getattr(checkpoint.state, name))
    parts = gather(job, found, processes, requests, report)
    attempt = _Attempt(config, run_dir, processes, report, environment, found, parts, record)
    if checkpoint is not None:
        attempt.restore(checkpoint)
    report(
        events.Started(
            at=time.time(),
            step=record.step,
            steps=config.steps,
            first_step=record.step,
            images=found.data.mixture.images_an_epoch,
            held_out_images=len(found.data.mixture.held_out),
            datasets=found.data.mixture.shares,
            trainable_parameters=parts.objective.model.parameters.count,
            processes=processes.count,
            device=environment.device,
            exact=not changes,
        )
    )
    tracking = Tracking(config, run_dir, report, step=record.step) if processes.is_main else None
    if tracking is not None:
        report.sinks.append(tracking)
    failed = True
    try:
        outcome = attempt.run(requests, tracking.where if tracking else "off")
        failed = False
    finally:
        if tracking is not None:
            report.sinks.remove(tracking)
            tracking.finish(failed=failed)
    manifest = Manifest(
        step=record.step,
        config_digest=config.digest(),
        base_identity=found.base_identity,
        dataset_digest=found.data.mixture.digest,
        datasets=found.data.mixture.named_shares,
        files=(),
    )
    return outcome, manifest


def _resumable(
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
        processes=processes.count,
    )
    changes = [*regrouped, *environment_changes(saved, environment)]
    for change in changes:
        report.warn(f"going on from step {saved.step}, but not bit for bit: {change}", saved.step)
    return checkpoint, changes


def _make_update(model: Trainable, config: TrainConfig, processes: Processes) -> Update:
    parameters, settings, fused = model.parameters, config.optimizer, config.full.fused_backward
    if fused or parameters.vector.dtype is not torch.float32:
        return OneByOne(parameters, settings, model.peak_rates, processes, fused=fused, seed=config.seed)
    optimizer = make_optimizer(parameters, settings, model.peak_rates)
    return AtOnce(parameters, optimizer, processes, settings.max_grad_norm)


@dataclass
class _Attempt:
    """The parts of a run in motion, so that the actions after a step need no long argument lists."""

    config: TrainConfig
    run_dir: RunDir
    processes: Processes
    report: Report
    environment: Environment
    found: Identified
    parts: Parts
    record: Record

    def __post_init__(self) -> None:
        self.model: Trainable = self.parts.objective.model
        self.update = _make_update(self.model, self.config, self.processes)
        self.paces = Paces(self.processes, self.config.gradient_accumulation_steps)

    def restore(self, checkpoint: Checkpoint) -> None:
        flat = self.model.parameters
        flat.fill(flat.vector.data, checkpoint.tensors("weights"))
        self.update.load(checkpoint.tensors("optimizer"))

    def run(self, requests: Requests, tracked: str) -> Outcome:
        if self.record.step == 0:
            self.record.held_out_before = self.measure()
            self.preview()
        ended = train_steps(
            self.config,
            self.parts.schedule,
            self.parts.feed,
            self.parts.objective,
            self.update,
            self.record,
            self.processes,
            requests,
            self.report,
            Actions(save=self.save, preview=self.preview, measure=self.measure, timed=self.paces.add),
        )
        if ended == "stopped":
            return Stopped(step=self.record.step)
        if self.processes.is_main:
            self.publish()
        after = self.measure()
        self.preview()
        if self.config.measure_floor and (paced := pace(self.paces, self.model, self.parts.feed, self.record.step)):
            self.report(paced)
        part = summary_steps(self.config.steps)
        return Completed(
            step=self.record.step,
            train_seconds=round(self.record.train_seconds, 3),
            loss_first=self.record.loss_first_sum / part,
            loss_last=self.record.loss_last_sum / part,
            held_out_loss_before=self.record.held_out_before,
            held_out_loss_after=after,
            tracking=tracked,
        )

    def measure(self) -> float | None:
        rows = self.found.data.mixture.held_out
        if not rows:
            return None
        loss = held_out_loss(
            rows, self.config.held_out.timesteps, self.parts.feed, self.parts.objective, self.processes
        )
        if not math.isfinite(loss):
            raise PatinaError(
                FailureCode.NAN_LOSS, f"The held-out loss after step {self.record.step} is not a finite number."
            )
        self.report(events.HeldOut(at=time.time(), step=self.record.step, loss=loss))
        return loss

    def preview(self) -> None:
        if not (self.parts.prompts and self.processes.is_main):
            return
        side = self.config.data.resolution_px or self.found.base.native_px
        made = make_previews(
            self.model,
            self.parts.objective.scheduler_config,
            self.parts.feed.texts,
            self.config.preview,
            self.parts.prompts,
            step=self.record.step,
            side_px=side // 8 * 8,
            # Guidance doubles the batch.
            at_once=max(1, self.config.batch_size // 2),
            folder=self.run_dir.previews,
        )
        for one in made:
            self.report(
                events.Preview(
                    at=time.time(), step=self.record.step, file=one.file.name, prompt=one.prompt, seed=one.seed
                )
            )

    def save(self) -> None:
        if not self.processes.is_main:
            return
        flat = self.model.parameters
        state = RunState(
            **asdict(self.record),
            config=self.config,
            environment=self.environment,
            base_identity=self.found.base_identity,
            dataset_digest=self.found.data.mixture.digest,
        )
        groups = {"weights": flat.split(flat.vector.data), "optimizer": self.update.state()}
        folder = save_checkpoint(self.run_dir, state, groups, keep=self.config.checkpoint.keep)
        self.report(events.CheckpointSaved(at=time.time(), step=self.record.step, file=folder.name))

    def publish(self) -> None:
        """Write the weights with the header that says what they are and what they belong to."""
        config, lora = self.config, self.config.lora if self.config.method == "lora" else None
        header = AdapterHeader(
            name=config.output_name,
            method=config.method,
            base_identity=self.found.base_identity,
            config_digest=config.digest(),
            dataset_version=self.found.data.mixture.digest,
            datasets=self.found.data.mixture.named_shares,
            trigger_word=config.trigger_word,
            rank=lora.rank if lora else None,
            alpha=lora.alpha if lora else None,
            targets=lora.targets if lora else None,
            resolution_px=config.data.resolution_px or self.found.base.native_px,
            prediction_type=self.parts.objective.prediction_type,
            zero_terminal_snr=bool(self.parts.objective.scheduler_config.get("rescale_betas_zero_snr")),
            steps=self.record.step,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write = save_adapter if lora else save_full
        write(self.run_dir.weights / f"{config.output_name}.safetensors", self.model.state(), header)
