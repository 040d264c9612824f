"""Room on the disk: asked for before the first step, and recognised when it runs out later.

What a run can do without is then left out. Knows nothing about who writes the files.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from contracts.failures import FailureCode, PatinaError
from contracts.plan import most_checkpoints
from contracts.rundir import RunDir
from contracts.sizes import size
from contracts.train import TrainConfig
from trainer.files import write_atomically

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Need(NamedTuple):
    """Bytes that will be written below a folder that is there, and what they are."""

    folder: Path
    bytes: int
    what: str


def run_needs(
    run_dir: RunDir,
    config: TrainConfig,
    checkpoint_bytes: int,
    weights_bytes: int,
    exports_bytes: int = 0,
    *,
    held_out: bool,
) -> list[Need]:
    """What a run will still write: checkpoints, as many as will lie there at most less those that do, and its ends.

    Args:
        held_out: whether there are pictures to measure on, by which a checkpoint can be the best.
    """
    count = most_checkpoints(config, held_out=held_out)
    there = sum(file.stat().st_size for file in run_dir.checkpoints.rglob("*") if file.is_file())
    return [
        Need(run_dir.checkpoints, max(0, count * checkpoint_bytes - there), f"{count} checkpoints"),
        Need(run_dir.weights, weights_bytes, "the weights"),
        *([Need(run_dir.exports, exports_bytes, "the exports")] if exports_bytes else []),
    ]


def check_room(needs: Iterable[Need]) -> None:
    """Refuse what does not fit; needs on one file system are added up.

    Raises:
        PatinaError: DISK_FULL, saying how much is missing and where.
    """
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        by_disk.setdefault(need.folder.stat().st_dev, []).append(need)
    for disk in by_disk.values():
        wanted, free = sum(need.bytes for need in disk), shutil.disk_usage(disk[0].folder).free
        if wanted > free:
            parts = ", ".join(f"{size(need.bytes)} for {need.what}" for need in disk)
            short = f"the disk of {disk[0].folder} has {size(free)}: {size(wanted - free)} too little"
            raise PatinaError(FailureCode.DISK_FULL, f"The run needs {parts}; {short}.")


def write_if_room(path: Path, content: str | bytes) -> bool:
    """Write what a run can do without; says whether the disk had room for it."""
    try:
        write_atomically(path, content)
    except OSError as error:
        if is_full(error):
            return False
        raise
    return True


def is_full(error: BaseException) -> bool:
    """Whether this is what writing to a full disk raises; safetensors says the number in words alone."""
    if isinstance(error, OSError):
        return error.errno in FULL
    found = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
    return found is not None and int(found[1]) in FULL
