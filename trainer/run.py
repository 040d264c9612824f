"""One run from its parts to its weights: go on from a checkpoint if there is one, train, publish.

Knows nothing about the command line, about failures, or about how any of the parts works.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from contracts import events
from contracts.buckets import GlobalBatch
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Completed, Environment, Manifest, Outcome, RunDir, Stopped
from contracts.train import TrainConfig
from trainer.beforehand import foreseen_needs
from trainer.checkpoint import Checkpoint, RunState, newer_than, read_checkpoint, save_checkpoint, thin_out
from trainer.control import Requests
from trainer.dialect import who_misreads
from trainer.environment import describe_environment
from trainer.exports import export_bytes, write_exports
from trainer.files import write_atomically
from trainer.floor import Paces, pace
from trainer.grace import GraceKeeper
from trainer.held_out import best
from trainer.identify import identify
from trainer.judge import Judge
from trainer.loop import Actions, Record, train_steps
from trainer.paces import remember_seconds
from trainer.parts import Identified, Job, Parts, gather
from trainer.processes import Processes
from trainer.publishing import write_weights
from trainer.report import Report
from trainer.resume import resumable, take_up
from trainer.room import check_room, run_needs
from trainer.tracking import Tracking
from trainer.update import make_update
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
    checkpoint, changes = resumable(run_dir, config, found, environment, processes, report)
    if checkpoint is not None:
        # Before any work, so that a stop or a failure meanwhile names the step that the next attempt goes on from.
        take_up(record, checkpoint.state, config, report)
    held_out = bool(found.data.mixture.held_out)
    needs = foreseen_needs(run_dir, config, found.described, held_out=held_out)
    parts = gather(job, found, processes, requests, report, needs)
    for message in who_misreads(parts.objective.model, found.dialect):
        report.warn(message)
    attempt = _Attempt(job, run_dir, processes, requests, report, environment, found, parts, record)
    if checkpoint is not None:
        attempt.restore(checkpoint)
    attempt.check_room()
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
    facts = {
        "base_identity": found.base_identity,
        "dataset_digest": found.data.mixture.digest,
        "environment": environment.model_dump(mode="json"),
    }
    tracking = Tracking(config, run_dir, report, step=record.step, facts=facts) if processes.is_main else None
    if tracking is not None:
        report.sinks.append(tracking)
        attempt.grace.closing_takes(tracking.closing_s)
    failed = True
    try:
        outcome = attempt.run(tracking.where if tracking else "off")
        failed = False
        if tracking is not None and config.tracking.log_weights and isinstance(outcome, Completed):
            tracking.upload(sorted(run_dir.weights.glob("*.safetensors")), facts | {"step": outcome.step})
    finally:
        if tracking is not None:
            report.sinks.remove(tracking)
            tracking.finish(failed=failed)
    if processes.is_main:
        try:
            remember_seconds(job.cache_dir, found.base_identity, environment, config, found.summary, attempt.paces)
        except OSError as error:
            report.warn(f"how long a step took is not remembered for plans: {error}.", record.step)
    manifest = Manifest(
        step=record.step,
        config_digest=config.digest(),
        base_identity=found.base_identity,
        dataset_digest=found.data.mixture.digest,
        datasets=found.data.mixture.named_shares,
        files=(),
    )
    return outcome, manifest


@dataclass
class _Attempt:
    """The parts of a run in motion, so that the actions after a step need no long argument lists."""

    job: Job
    run_dir: RunDir
    processes: Processes
    requests: Requests
    report: Report
    environment: Environment
    found: Identified
    parts: Parts
    record: Record

    def __post_init__(self) -> None:
        self.config: TrainConfig = self.job.recipe.config
        self.model: Trainable = self.parts.objective.model
        self.update = make_update(self.model, self.config, self.processes)
        self.paces = Paces(self.processes, self.config.gradient_accumulation_steps)
        self.judge = Judge(
            self.config,
            self.run_dir,
            self.processes,
            self.requests,
            self.report,
            self.found.data.mixture.held_out,
            self.config.data.resolution_px or self.found.base.native_px,
            self.parts,
            self.record,
        )
        self.unusable = newer_than(self.run_dir, self.record.step)
        sizes = {name: sum(tensor.nbytes for tensor in group.values()) for name, group in self.groups().items()}
        # An optimiser that has not stepped may keep nothing yet; two moments are the most that any of them keeps.
        self.checkpoint_bytes = sizes["weights"] + (sizes["optimizer"] or 2 * sizes["weights"])
        full = self.config.method == "full"
        self.exports_bytes = export_bytes(self.found.base.files, self.config.export) if full else 0
        self.grace = GraceKeeper(self.run_dir, checkpoint_bytes=self.checkpoint_bytes, exports_bytes=self.exports_bytes)

    def restore(self, checkpoint: Checkpoint) -> None:
        self.model.restore(checkpoint.tensors)
        self.update.load(checkpoint.tensors("optimizer"))

    def check_room(self) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            PatinaError: DISK_FULL.
        """
        if self.processes.is_main:
            weights_bytes = sum(tensor.nbytes for tensor in self.model.published().values())
            held_out = bool(self.found.data.mixture.held_out)
            check_room(
                run_needs(
                    self.run_dir,
                    self.config,
                    self.checkpoint_bytes,
                    weights_bytes,
                    self.exports_bytes,
                    held_out=held_out,
                )
            )

    def run(self, tracked: str) -> Outcome:
        ended = self.judge.catch_up()
        if ended is None:
            ended = train_steps(
                self.config,
                self.parts.schedule,
                self.parts.prior,
                self.parts.feed,
                self.parts.objective,
                self.update,
                self.record,
                self.processes,
                self.requests,
                self.report,
                Actions(self.save, self.save_to_stop, self.judge.preview, self.judge.measure, self.timed),
            )
        if ended == "stopped" or (not self.judge.measured() and self.judge.measure() == "broken off"):
            self.requests.done("stop")
            return Stopped(step=self.record.step)
        self.judge.preview()
        record, curve = self.record, dict(self.record.held_out)
        weights_step, exports = self.processes.from_main(self.publish() if self.processes.is_main else None)
        lowest = best(record.held_out)
        early = ended == "gained nothing"
        if self.config.measure_floor and (paced := pace(self.paces, self.model, self.parts.feed, self.record.step)):
            self.report(paced)
        return Completed(
            step=record.step,
            stopped_early=early,
            weights_step=weights_step if weights_step != record.step else None,
            train_seconds=round(record.train_seconds, 3),
            loss_first=record.loss_first_sum / max(record.loss_first_steps, 1),
            loss_last=record.loss_smooth if early else record.loss_last_sum / max(record.loss_last_steps, 1),
            held_out_loss_before=curve.get(0),
            held_out_loss_after=curve.get(weights_step),
            best_step=lowest[0] if lowest else None,
            held_out_loss_best=lowest[1] if lowest else None,
            exports=exports,
            tracking=tracked,
        )

    def timed(self, step: int, ran: Sequence[GlobalBatch], seconds: float) -> None:
        self.paces.add(step, ran, seconds)
        if self.processes.is_main:
            self.grace.step_took(seconds)

    def save(self) -> None:
        try:
            self.save_to_stop()
        except PatinaError as error:
            if error.code != FailureCode.DISK_FULL:
                raise
            self.report.warn(f"{error.message} The run goes on; those before it are whole.", self.record.step)

    def save_to_stop(self) -> None:
        if not self.processes.is_main:
            return
        began = time.perf_counter()
        state = RunState(
            **asdict(self.record),
            config=self.config,
            environment=self.environment,
            base_identity=self.found.base_identity,
            dataset_digest=self.found.data.mixture.digest,
            parent=self.found.parent,
        )
        keep, best_step = self.config.checkpoint.keep, self.best_step()
        folder = save_checkpoint(
            self.run_dir, state, self.groups(), keep=keep, best_step=best_step, unusable=self.unusable
        )
        self.unusable = []
        self.grace.save_took(time.perf_counter() - began)
        self.report(events.CheckpointSaved(at=time.time(), step=self.record.step, file=folder.name))

    def best_step(self) -> int | None:
        """Whose checkpoint is kept for its held-out loss."""
        lowest = best(self.record.held_out) if self.config.held_out.keep_best else None
        return None if lowest is None else lowest[0]

    def groups(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint holds beside its state: named tensors, a file each group."""
        return {**self.model.kept(), "optimizer": self.update.state()}

    def publish(self) -> tuple[int, tuple[str, ...]]:
        """Write the weights of the last step, or of the best where that is asked for; says which, and the exports."""
        step = self.record.step
        wanted = self.best_step() if self.config.held_out.publish == "best" else None
        if wanted is not None and wanted != step:
            found = read_checkpoint(self.run_dir.checkpoint(wanted))
            if isinstance(found, Checkpoint):
                self.restore(found)
                step = wanted
            else:
                self.report.warn(
                    f"the best weights, of step {wanted}, cannot be read ({found}): these are the last", step
                )
        path = self.run_dir.weights / f"{self.config.output_name}.safetensors"
        with self.model.as_published():
            write_weights(path, self.config, self.found, self.parts, step)
        exports: tuple[str, ...] = ()
        if self.config.method == "full":
            cached = self.job.cache_dir / "identities"
            exports = write_exports(self.run_dir, path, self.found.base.files, self.config.export, cached, self.report)
        thin_out(self.run_dir, keep=self.config.checkpoint.keep, best_step=self.best_step())
        return step, exports
