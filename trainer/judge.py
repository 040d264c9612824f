"""Judging a run as it goes: the held-out loss with its curve and what follows from it, and previews.

Knows nothing about steps or checkpoints: it is told when to judge, and says what it found.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from contracts import events
from contracts.dataset import VersionRow
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import RunDir
from contracts.train import TrainConfig
from trainer.control import Requests, StopRequested
from trainer.curve import draw_curve
from trainer.held_out import best, gains_nothing, held_out_loss
from trainer.loop import Ended, Record, Verdict, due
from trainer.parts import Parts
from trainer.preview import make_previews, preview_file
from trainer.processes import Processes
from trainer.report import Report
from trainer.room import write_if_room

log = logging.getLogger(__name__)


@dataclass
class Judge:
    """What is judged, by what, and where it is said."""

    config: TrainConfig
    run_dir: RunDir
    processes: Processes
    requests: Requests
    report: Report
    held_out: Sequence[VersionRow]
    side_px: int
    parts: Parts
    record: Record

    def catch_up(self) -> Ended | None:
        """What is due before the next step: at the start, or because a stop came before it was done."""
        step, config = self.record.step, self.config
        if gains_nothing(self.record.held_out, config.held_out.stop_after, config.held_out.min_gain):
            return "gained nothing"
        if step == config.steps:
            return None
        if (step == 0 or due(step, config.held_out.every_steps)) and not self.measured():
            verdict = self.measure()
            if verdict in ("enough", "broken off"):
                return "gained nothing" if verdict == "enough" else "stopped"
        there = preview_file(self.run_dir.previews, step, len(self.parts.prompts) - 1).exists()
        if (step == 0 or due(step, config.preview.every_steps)) and not there:
            self.preview()
        return None

    def measured(self) -> bool:
        """Whether the weights as they are have been measured."""
        return any(step == self.record.step for step, _ in self.record.held_out)

    def measure(self) -> Verdict:
        """The held-out loss of the weights as they are, said, drawn and judged; on all ranks together.

        Raises:
            PatinaError: NAN_LOSS.
        """
        settings, step = self.config.held_out, self.record.step
        if not self.held_out:
            return "go on"
        with self.parts.objective.model.as_published():
            loss = held_out_loss(
                self.held_out,
                settings.timesteps,
                self.parts.feed,
                self.parts.objective,
                self.processes,
                self.requests.stop_wanted,
            )
        if loss is None:
            return "broken off"
        if not math.isfinite(loss):
            raise PatinaError(FailureCode.NAN_LOSS, f"The held-out loss after step {step} is not a finite number.")
        curve = self.record.held_out = (*self.record.held_out, (step, loss))
        lowest = best(curve) == (step, loss)
        self.report(events.HeldOut(at=time.time(), step=step, loss=loss, best=lowest))
        if self.processes.is_main and not write_if_room(self.run_dir.curve, draw_curve(curve)):
            self.report.warn(f"the disk is full: {self.run_dir.curve.name} is not drawn.", step)
        if gains_nothing(curve, settings.stop_after, settings.min_gain):
            return "enough"
        return "best" if lowest and settings.keep_best else "go on"

    def preview(self) -> None:
        """Pictures of the weights as they are; broken off when a stop is asked for.

        A run does not end because it cannot be looked at: what goes wrong here is said, and its trace is in the log.
        """
        if not (self.parts.prompts and self.processes.is_main):
            return
        step = self.record.step
        made = make_previews(
            self.parts.objective.model,
            self.parts.objective.scheduler_config,
            self.parts.feed.texts,
            self.config.preview,
            self.parts.prompts,
            step=step,
            side_px=self.side_px // 8 * 8,
            # Guidance doubles the batch.
            at_once=max(1, self.config.batch_size // 2),
            folder=self.run_dir.previews,
            stop_wanted=self.requests.stop_wanted,
        )
        try:
            with self.parts.objective.model.as_published():
                for one in made:
                    self.report(
                        events.Preview(at=time.time(), step=step, file=one.file.name, prompt=one.prompt, seed=one.seed)
                    )
        except StopRequested:
            # All ranks hear of it together, after the next step; what is missing is made by the next attempt.
            return
        except Exception as error:  # whatever it is, it is no reason to lose the run
            log.error("previews after step %d", step, exc_info=True)
            said = str(error).partition("\n")[0] or type(error).__name__
            self.report.warn(f"not all previews after step {step} could be made ({said}); the run goes on.", step)
