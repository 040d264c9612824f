"""What a run will take, looked at before any weight is read: too much memory is refused, with what would make it fit.

Knows nothing about how memory is estimated; contracts/plan.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from contracts.base import BaseDescription
from contracts.dataset import DatasetSummary
from contracts.fitting import does_not_fit
from contracts.plan import LATENT_BYTES, checkpoint_bytes, export_bytes, fitted, memory_of, weights_file_bytes
from contracts.rundir import RunDir
from contracts.train import TrainConfig
from sdxl.base import Base, description
from sdxl.profile import known_profile, profile_of
from trainer.environment import device_bytes
from trainer.latents import View
from trainer.processes import Processes
from trainer.room import Need, check_room, run_needs


def described(base: Base, cache_dir: Path, memory_bytes: int | None, processes: Processes) -> BaseDescription | None:
    """What plans need to know of the base; None where its shape was never traced and no limit is given.

    A shape that is not known takes minutes to trace, which nobody waits for who has not asked for it.

    Args:
        memory_bytes: what the run must fit, if that was said.
    """
    if not processes.is_main:
        return None
    find = known_profile if memory_bytes is None else profile_of
    profile = find(base.files, cache_dir / "identities")
    return None if profile is None else description(base.files, profile)


def refuse_too_large(
    config: TrainConfig,
    base: BaseDescription | None,
    data: DatasetSummary,
    *,
    memory_bytes: int | None,
    processes: Processes,
) -> None:
    """Refuse, on all ranks alike, what the device of the first does not hold.

    Raises:
        PatinaError: OUT_OF_MEMORY, with what to change.
    """
    limit = memory_bytes or device_bytes(processes.device)
    refused = None
    if limit is not None and base is not None:
        found = fitted(config, base, data, limit)
        if found is not None:
            refused = memory_of(config, base, data).total, limit, found
    agreed = processes.from_main(refused)
    if agreed is not None:
        raise does_not_fit(*agreed)


def foreseen_needs(
    run_dir: RunDir, config: TrainConfig, base: BaseDescription | None, *, held_out: bool
) -> Sequence[Need]:
    """What a run will write into its directory, as far as it is known before the model is loaded."""
    if base is None:
        return ()
    return run_needs(
        run_dir,
        config,
        checkpoint_bytes(config, base),
        weights_file_bytes(config, base),
        export_bytes(config, base),
        held_out=held_out,
    )


def room_for_latents(folder: Path, base: Base, needs: Sequence[Need]) -> Callable[[Iterable[View]], None]:
    """Hears which views will be encoded, and refuses what the disk cannot hold beside the other ``needs``."""

    def check(views: Iterable[View]) -> None:
        buckets = [view.placement.bucket for view in views]
        positions = sum(one.width_px * one.height_px for one in buckets) // base.vae_factor**2
        count = positions * base.latent_channels * LATENT_BYTES
        check_room([*needs, Need(folder, count, f"{len(buckets)} latents")])

    return check


def room_for_texts(folder: Path, bytes_each: int, needs: Sequence[Need]) -> Callable[[Iterable[object]], None]:
    """The same of captions, each counted as one of a single chunk."""

    def check(captions: Iterable[object]) -> None:
        count = len(list(captions))
        check_room([*needs, Need(folder, count * bytes_each, f"{count} encoded captions")])

    return check
