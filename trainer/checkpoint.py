"""Save a run so that it goes on exactly, and find the newest checkpoint that is whole.

A checkpoint is written under a temporary name, synced, its manifest last, then renamed; older ones go after
that. One that is cut off or altered fails its manifest and the one before it is used. Knows nothing about what
is trained: named tensors in, named tensors out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from contracts.config import Frozen
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Environment, Manifest, RunDir
from contracts.train import RESULT_NEUTRAL_FIELDS, TrainConfig
from trainer.environment import differences
from trainer.files import discard, manifest_entry, publish, remove_leftovers, sync, temporary_beside

MANIFEST, STATE = "manifest.json", "state.json"
REGROUPING_FIELDS = frozenset({"batch_size", "gradient_accumulation_steps", "gradient_checkpointing"})
"""Fields that change how a step is computed but not what it computes; a resume under others is not exact."""


class RunState(Frozen):
    """state.json: everything of the loop's that is not a tensor."""

    step: int
    config: TrainConfig
    environment: Environment
    base_identity: str
    dataset_digest: str
    train_seconds: float
    loss_smooth: float
    loss_first_sum: float
    loss_last_sum: float
    held_out_before: float | None
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
    run_dir: RunDir, state: RunState, groups: Mapping[str, Mapping[str, torch.Tensor]], *, keep: int
) -> Path:
    """Write a checkpoint of ``state.step``, one safetensors file a group; then delete all but the newest ``keep``."""
    final = run_dir.checkpoint(state.step)
    folder = temporary_beside(final)
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
    publish(folder, final)
    for old in _newest_first(run_dir)[keep:]:
        discard(old)
    return final


def find_checkpoint(run_dir: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and in words each newer one that is not whole."""
    remove_leftovers(run_dir.checkpoints)
    broken: list[str] = []
    for folder in _newest_first(run_dir):
        reason = _damage(folder)
        if reason is None:
            try:
                return Checkpoint(folder, RunState.model_validate_json((folder / STATE).read_bytes())), broken
            except ValueError:
                reason = f"{STATE} was written by another version"
        broken.append(f"checkpoint {folder.name} is not used: {reason}")
    return None, broken


def check_resumable(
    saved: RunState, config: TrainConfig, *, base_identity: str, dataset_digest: str, processes: int
) -> list[str]:
    """Refuse a resume whose result would be wrong; return the changes after which it is right but not exact.

    Raises:
        PatinaError: CHECKPOINT_MISMATCH naming every difference.
    """
    wrong: list[str] = []
    inexact: list[str] = []
    before, now = saved.config.model_dump(mode="json"), config.model_dump(mode="json")
    for name in before:
        if before[name] != now[name] and name not in RESULT_NEUTRAL_FIELDS:
            (inexact if name in REGROUPING_FIELDS else wrong).extend(_changed(name, before[name], now[name]))
    pictures = _global_batch(saved.config, saved.environment.processes)
    pictures_now = _global_batch(config, processes)
    if pictures != pictures_now:
        wrong.append(f"pictures in one optimiser step were {pictures}, are {pictures_now}")
    if saved.base_identity != base_identity:
        wrong.append(f"the base was {saved.base_identity[:12]}, is {base_identity[:12]}")
    if saved.dataset_digest != dataset_digest:
        wrong.append(f"the data set was {saved.dataset_digest[:12]}, is {dataset_digest[:12]}")
    if wrong:
        raise PatinaError(
            FailureCode.CHECKPOINT_MISMATCH,
            f"The checkpoint of step {saved.step} belongs to another run: {'; '.join(wrong)}.",
            "Give it back what it was made with, or start in a new run directory.",
        )
    return inexact


def environment_changes(saved: RunState, now: Environment) -> list[str]:
    """What differs around the run; a resume is exact only when nothing does."""
    return differences(saved.environment, now)


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


def _changed(name: str, before: object, now: object) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        differing = [key for key in before if before[key] != now[key]]
        return [change for key in differing for change in _changed(f"{name}.{key}", before[key], now[key])]
    return [f"{name} was {before}, is {now}"]


def _global_batch(config: TrainConfig, processes: int) -> int:
    return config.batch_size * config.gradient_accumulation_steps * processes
