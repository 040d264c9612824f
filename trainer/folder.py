"""Opening and closing a run directory: one trainer at a time, nothing stale in it, its ending written once.

Knows nothing about what happens in between.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.rundir import OUTCOME, Completed, Manifest, Outcome, RunDir
from contracts.train import TrainConfig, parse_config
from trainer.changes import changes
from trainer.files import manifest_entry, remove_leftovers, temporary_beside, write_atomically
from trainer.recipe import as_yaml
from trainer.room import is_full, write_if_room

LOCK = ".lock"
RESERVE = ".reserve"
RESERVE_BYTES = 1 << 16
"""Room for an outcome, kept while an attempt runs: on a disk that is full by then, it can still say so."""


@contextmanager
def only_trainer(run_dir: RunDir) -> Iterator[None]:
    """Hold the run directory; the lock goes with the process, however it ends.

    Raises:
        PatinaError: ALREADY_RUNNING; or HOME_UNUSABLE when nothing can be written there.
    """
    try:
        run_dir.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir.root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise PatinaError(
            FailureCode.HOME_UNUSABLE,
            f"The run directory {run_dir.root} cannot be written ({error.strerror}).",
            "Give a folder you can write: --run-dir DIR.",
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PatinaError(
                FailureCode.ALREADY_RUNNING,
                f"Another trainer works in {run_dir.root}.",
                "Wait for it, stop it (touch control/stop there), or choose another --run-dir.",
            ) from None
        yield
    finally:
        os.close(handle)


class Done(NamedTuple):
    """A run that is already complete."""

    outcome: Completed
    without_effect: tuple[str, ...]
    """Settings that are others now, and come too late to change anything."""


def completed_before(run_dir: RunDir, config: TrainConfig) -> Done | None:
    """The run that is already complete here; None when there is none, or it is to have more steps than it had.

    Raises:
        InvalidInput: it is complete, but other settings would change the result, or nothing is left to go on from.
    """
    complete = completion(run_dir)
    if complete is None:
        return None
    outcome = complete.outcome
    before = parse_config(yaml.safe_load(complete.files[run_dir.config]))
    manifest = Manifest.model_validate_json(complete.files[run_dir.manifest])
    if manifest.config_digest == config.digest():
        return Done(outcome, ())
    changed = changes(before, config)
    learned = [change for change in changed if not change.is_neutral]
    if [change.name for change in learned] == ["steps"] and config.steps > before.steps:
        _require_last(run_dir, outcome.step)
        return None
    if learned:
        raise InvalidInput(
            [FieldError(pointer="/" + one.name.replace(".", "/"), message=one.arrow) for one in learned],
            message=f"The run in {run_dir.root} is complete after {outcome.step} steps, with other settings.",
            hint="Give it back those it had, or start the new one in a new --run-dir; more steps alone would go on.",
        )
    return Done(outcome, tuple(change.name for change in changed))


def _require_last(run_dir: RunDir, step: int) -> None:
    """Going on from an older checkpoint would end in other weights than those the run has shown."""
    if not run_dir.checkpoint(step).exists():
        raise InvalidInput(
            [FieldError(pointer="/steps", message=f"the checkpoint of step {step} is gone")],
            message=f"The run in {run_dir.root} cannot go on.",
            hint="Start a new run from its weights: --init-weights.",
        )


def read_outcome(run_dir: RunDir) -> Outcome | None:
    """How the last attempt ended; None when it did not end by itself."""
    try:
        return OUTCOME.validate_json(run_dir.outcome.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def prepare(run_dir: RunDir, config: TrainConfig) -> None:
    """Make the folders, write config.yaml, and take away what an earlier attempt left half done.

    Raises:
        PatinaError: DISK_FULL; how the last attempt ended is still there.
    """
    exports = [run_dir.exports] if config.method == "full" and config.export.layouts else []
    for folder in (run_dir.previews, run_dir.checkpoints, run_dir.weights, *exports, run_dir.root / "control"):
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
    remove_leftovers(run_dir.root)
    if not write_if_room(run_dir.root / RESERVE, bytes(RESERVE_BYTES)):
        raise PatinaError(FailureCode.DISK_FULL, f"The disk of {run_dir.root} is full.")
    run_dir.outcome.unlink(missing_ok=True)
    run_dir.manifest.unlink(missing_ok=True)
    write_atomically(run_dir.config, as_yaml(config))


class Completion(NamedTuple):
    """What says that a run is complete, manifest.json last."""

    outcome: Completed
    files: dict[Path, str]


def completion(run_dir: RunDir) -> Completion | None:
    """Of a complete run, before ``prepare`` takes it away; None of any other."""
    outcome = read_outcome(run_dir)
    if not run_dir.manifest.exists() or not isinstance(outcome, Completed):
        return None
    files = (run_dir.config, run_dir.outcome, run_dir.manifest)
    return Completion(outcome, {file: file.read_text(encoding="utf-8") for file in files})


def put_back(before: Completion) -> None:
    """A complete run that was to go on and could not take a step is as complete as it was."""
    for file, text in before.files.items():
        write_atomically(file, text)


def end(run_dir: RunDir, outcome: Outcome) -> bool:
    """Write outcome.json unless this attempt already has one: the rank that failed first knows the reason.

    Returns whether this is the one. On a full disk it takes the room that ``prepare`` kept.
    """
    if run_dir.outcome.exists():
        return False
    temporary = temporary_beside(run_dir.outcome)
    text = outcome.model_dump_json(indent=2).encode()
    try:
        try:
            temporary.write_bytes(text)
        except OSError as error:
            if not is_full(error):
                raise
            os.replace(run_dir.root / RESERVE, temporary)
            with temporary.open("r+b") as file:
                file.write(text)
                file.truncate()
        os.link(temporary, run_dir.outcome)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def seal(run_dir: RunDir, manifest: Manifest) -> None:
    """Write manifest.json over the weights, exports and previews there are: the very last file of a completed run."""
    folders = (run_dir.weights, run_dir.exports, run_dir.previews)
    paths = sorted(path for folder in folders for path in folder.rglob("*"))
    files = tuple(manifest_entry(run_dir.root, path) for path in paths if path.is_file())
    write_atomically(run_dir.manifest, manifest.model_copy(update={"files": files}).model_dump_json(indent=2))


def leave_reserve(run_dir: RunDir) -> None:
    """Give up the room that ``prepare`` kept, once the ending is written."""
    (run_dir.root / RESERVE).unlink(missing_ok=True)


def new_reference() -> str:
    """An id that leads from a message to the stack trace in trainer.log."""
    return secrets.token_hex(4)
