"""Save a run so that it goes on exactly, and find the newest checkpoint that is whole.

A checkpoint is written under a temporary name, synced, its manifest last, then renamed; older ones go after
that: all but the newest few and the best. One that is cut off or altered fails its manifest and the one before it is
used. A disk that fills up costs the checkpoint that is being written, none that is there. Knows nothing about what is
trained: named tensors in, named tensors out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from contracts.adapter import Parent
from contracts.config import Frozen
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Environment, Manifest, RunDir
from contracts.train import TrainConfig
from trainer.files import discard, manifest_entry, publish, remove_leftovers, sync, temporary_beside
from trainer.held_out import Curve
from trainer.room import is_full

MANIFEST, STATE = "manifest.json", "state.json"


class RunState(Frozen):
    """state.json: everything of the loop's that is not a tensor."""

    step: int
    config: TrainConfig
    environment: Environment
    base_identity: str
    dataset_digest: str
    parent: Parent | None = None
    train_seconds: float
    loss_smooth: float
    loss_first_sum: float
    loss_last_sum: float
    loss_first_steps: int = 0
    loss_last_steps: int = 0
    held_out: Curve
    loss_scale: float = 1.0
    clean_steps: int = 0
    skipped_steps: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    state: RunState

    def tensors(self, group: str) -> dict[str, torch.Tensor]:
        """One of the groups it was saved with."""
        return load_file(self.folder / f"{group}.safetensors")


def save_checkpoint(
    run_dir: RunDir,
    state: RunState,
    groups: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    keep: int,
    best_step: int | None = None,
    unusable: Sequence[Path] = (),
) -> Path:
    """Write a checkpoint of ``state.step`` one safetensors file a group; then delete what is not to be kept.

    Args:
        keep: how many of the newest stay.
        best_step: stays too.
        unusable: goes, and is not counted among the newest.

    Raises:
        PatinaError: DISK_FULL; the checkpoints that were there still are.
    """
    final = run_dir.checkpoint(state.step)
    folder = temporary_beside(final)
    try:
        _write(folder, state, groups)
        publish(folder, final)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_full(error):
            raise PatinaError(
                FailureCode.DISK_FULL,
                f"The disk of {run_dir.root} is full: the checkpoint of step {state.step} could not be saved.",
            ) from error
        raise
    for folder in unusable:
        if folder != final and folder.exists():
            discard(folder)
    thin_out(run_dir, keep=keep, best_step=best_step)
    return final


def thin_out(run_dir: RunDir, *, keep: int, best_step: int | None) -> None:
    """Delete all but the newest ``keep`` and the one of ``best_step``."""
    for old in _newest_first(run_dir)[keep:]:
        if best_step is None or old != run_dir.checkpoint(best_step):
            discard(old)


def _write(folder: Path, state: RunState, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    folder.mkdir()
    for group, named in groups.items():
        tensors = {name: tensor.detach().cpu() for name, tensor in named.items()}
        save_file(tensors, folder / f"{group}.safetensors")
    (folder / STATE).write_text(state.model_dump_json(indent=2))
    files = sorted(folder.iterdir())
    for file in files:
        sync(file)
    manifest = Manifest(
        step=state.step,
        config_digest=state.config.digest(),
        base_identity=state.base_identity,
        dataset_digest=state.dataset_digest,
        files=tuple(manifest_entry(folder, file) for file in files),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    sync(folder / MANIFEST)
    sync(folder)


def find_checkpoint(run_dir: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and in words each newer one that is not whole."""
    remove_leftovers(run_dir.checkpoints)
    broken: list[str] = []
    for folder in _newest_first(run_dir):
        found = read_checkpoint(folder)
        if isinstance(found, Checkpoint):
            return found, broken
        broken.append(f"checkpoint {folder.name} is not used: {found}")
    return None, broken


def read_checkpoint(folder: Path) -> Checkpoint | str:
    """A checkpoint that is whole, or in words why it is not."""
    damage = _damage(folder)
    if damage is not None:
        return damage
    try:
        return Checkpoint(folder, RunState.model_validate_json((folder / STATE).read_bytes()))
    except ValueError:
        return f"{STATE} was written by another version"


def newer_than(run_dir: RunDir, step: int) -> list[Path]:
    """Checkpoints of later steps: to a run that goes on from ``step`` they are of no use."""
    return [folder for folder in _newest_first(run_dir) if folder > run_dir.checkpoint(step)]


def _newest_first(run_dir: RunDir) -> list[Path]:
    return sorted(run_dir.checkpoints.glob("step-*"), reverse=True)


def _damage(folder: Path) -> str | None:
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        for entry in manifest.files:
            if manifest_entry(folder, folder / entry.path) != entry:
                return f"{entry.path} is cut off or altered"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError:
        return f"{MANIFEST} cannot be read"
    return None
