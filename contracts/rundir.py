"""The run directory: how worker and trainer speak. Names and file contents; reads and writes nothing itself.

The worker writes config.yaml, attempt and control/*; the trainer everything else. Every file is written under a
temporary name and renamed; manifest.json comes last. Exit codes are not trusted: outcome.json is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from contracts.config import Frozen
from contracts.failures import FailureCode
from contracts.mixing import Share

ATTEMPT_VARIABLE = "PATINA_ATTEMPT"
"""Environment variable "JOB.FENCE" on every process of an attempt, by which leftovers are found and ended."""

Control = Literal["stop", "save", "preview"]
"""Files in control/ the trainer acts on at the next step and removes."""


@dataclass(frozen=True)
class RunDir:
    """The paths of one run directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def attempt(self) -> Path:
        return self.root / "attempt"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def previews(self) -> Path:
        return self.root / "previews"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.root / "weights"

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def wandb(self) -> Path:
        return self.root / "wandb"

    @property
    def log(self) -> Path:
        return self.root / "trainer.log"

    @property
    def outcome(self) -> Path:
        return self.root / "outcome.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def grace(self) -> Path:
        return self.root / "grace.json"

    @property
    def curve(self) -> Path:
        return self.root / "held_out.png"

    def control(self, name: Control) -> Path:
        return self.root / "control" / name

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"


class Environment(Frozen):
    """environment.json: what a resume must match to be exact; names and versions, never a secret."""

    python: str
    platform: str
    cpu_capability: str
    threads: int
    processes: int
    device: str
    versions: dict[str, str]


class Grace(Frozen):
    """grace.json: how long the trainer needs from a request to stop to its end, as measured; rewritten as it changes.

    Whoever stops it waits that long before killing it.
    """

    step_s: float
    """A step that has just begun."""
    save_s: float
    """Its checkpoint."""
    exports_s: float = 0.0
    """What a full fine-tune writes after its last step, beside its weights."""
    leave_s: float
    """Closing what is open, W&B above all."""
    grace_s: float
    """All of them, with a margin."""


class Completed(Frozen):
    """All steps are done, or nothing was gained any more, and the weights are written."""

    state: Literal["completed"] = "completed"
    step: int
    stopped_early: bool = False
    """The held-out loss gained nothing any more, before the last step."""
    weights_step: int | None = None
    """Step of the weights it ends with, where that is not ``step``."""
    train_seconds: float
    loss_first: float
    """Mean loss of the first tenth of the steps."""
    loss_last: float
    """Mean loss of the last tenth of the steps; of a run that stopped early the smoothed loss."""
    held_out_loss_before: float | None
    held_out_loss_after: float | None
    """Of the weights it ends with."""
    best_step: int | None = None
    """Where the held-out loss was lowest."""
    held_out_loss_best: float | None = None
    exports: tuple[str, ...] = ()
    """What a full fine-tune left of the whole model, by path in the run directory."""
    tracking: str
    """Where W&B wrote: a URL, a folder, or "off"."""


class Stopped(Frozen):
    """Stopped on request after a checkpoint; the same command goes on from there."""

    state: Literal["stopped"] = "stopped"
    step: int


class Failed(Frozen):
    """Ended by an error; ``reference`` finds the stack trace in trainer.log when the code is internal."""

    state: Literal["failed"] = "failed"
    step: int
    code: FailureCode
    message: str
    hint: str
    retryable: bool
    reference: str | None = None


Outcome = Annotated[Completed | Stopped | Failed, Field(discriminator="state")]
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
"""Parses outcome.json: ``OUTCOME.validate_json(text)``."""


class ManifestFile(Frozen):
    """One file of a manifest, by path relative to the folder the manifest is in."""

    path: str
    bytes: int
    sha256: str


class Manifest(Frozen):
    """manifest.json, of the run (weights, exports and previews) and of each checkpoint (its files): written last."""

    step: int
    config_digest: str
    base_identity: str
    dataset_digest: str
    """Of the version, or over several and their weights (contracts/mixing.py)."""
    datasets: tuple[Share, ...] = ()
    """Those several; empty for one version with weight 1."""
    files: tuple[ManifestFile, ...]
