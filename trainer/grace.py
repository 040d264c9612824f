"""How long the trainer needs to end when it is asked to: measured as it goes, and left in grace.json for whoever asks.

A stop is looked for between two steps and breaks off previews and measurements, so the worst case is a step that has
just begun, its checkpoint, and closing what is open; where that step is the last, what the run leaves is written too.
Knows nothing about how a stop is asked for.
"""

from __future__ import annotations

from contracts.rundir import Grace, RunDir
from trainer.room import write_if_room

MARGIN = 2.0
"""Other work on the machine can make a step or a save slower than it was."""
ENDING_S = 2.0
"""Writing the outcome and leaving the interpreter."""
FORGETTING = 0.98
"""A slow step counts less with each that follows, so that the first one does not decide for ever."""
SAVING_BYTES_PER_S = 100e6
"""Assumed before the first save: a slow disk."""


class GraceKeeper:
    """Keeps grace.json true to within a quarter.

    Args:
        checkpoint_bytes: of one checkpoint; its save tells how fast the disk is.
        exports_bytes: of what is written after the last step, beside the weights.
    """

    def __init__(self, run_dir: RunDir, *, checkpoint_bytes: int, exports_bytes: int = 0) -> None:
        self._run_dir = run_dir
        self._checkpoint_bytes = checkpoint_bytes
        self._exports_bytes = exports_bytes
        self._step_s = 0.0
        self._save_s = checkpoint_bytes / SAVING_BYTES_PER_S
        self._leave_s = ENDING_S
        self._written_s = 0.0

    def closing_takes(self, seconds: float) -> None:
        """Something is open whose closing may take that long."""
        self._leave_s = ENDING_S + seconds

    def step_took(self, seconds: float) -> None:
        """A step was done."""
        self._step_s = max(seconds, self._step_s * FORGETTING)
        self._write()

    def save_took(self, seconds: float) -> None:
        """A checkpoint was saved."""
        self._save_s = seconds
        self._write()

    def _write(self) -> None:
        speed = self._checkpoint_bytes / self._save_s if self._save_s else SAVING_BYTES_PER_S
        exports_s = self._exports_bytes / speed if self._exports_bytes else 0.0
        grace_s = MARGIN * (self._step_s + self._save_s + exports_s) + self._leave_s
        if not self._step_s or 0.8 < grace_s / (self._written_s or 1e-9) < 1.25:
            return
        said = Grace(
            step_s=round(self._step_s, 3),
            save_s=round(self._save_s, 3),
            exports_s=round(exports_s, 3),
            leave_s=self._leave_s,
            grace_s=round(grace_s, 3),
        )
        if write_if_room(self._run_dir.grace, said.model_dump_json(indent=2)):
            self._written_s = grace_s
