"""How long steps took on this machine, remembered beside the caches: what a plan's seconds a step come from.

One line a run in one file; the newest of the same base, device, processes and shape counts. Knows nothing about how
steps are timed.
"""

from __future__ import annotations

import json
from pathlib import Path

from contracts.config import digest
from contracts.dataset import DatasetSummary
from contracts.plan import step_shape
from contracts.rundir import Environment
from contracts.train import TrainConfig
from trainer.floor import Paces

FILE = "paces.jsonl"


def remember_seconds(
    cache_dir: Path,
    base_identity: str,
    environment: Environment,
    config: TrainConfig,
    data: DatasetSummary,
    paces: Paces,
) -> None:
    """Add what the usual step of a run took, if it took any."""
    usual = paces.usual()
    if usual is None:
        return
    shape = _shape(base_identity, environment.device, environment.processes, config, data)
    cache_dir.mkdir(parents=True, exist_ok=True)
    # One short write at the end of the file: lines of runs that end together do not mix.
    with (cache_dir / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"shape": shape, "seconds": usual.median_s}) + "\n")


def measured_seconds(
    cache_dir: Path, base_identity: str, device: str, processes: int, config: TrainConfig, data: DatasetSummary
) -> float | None:
    """What a step of this shape took the last time; None if there was none."""
    shape, found = _shape(base_identity, device, processes, config, data), None
    try:
        lines = (cache_dir / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            # A line that a full disk cut off.
            continue
        if entry.get("shape") == shape:
            found = float(entry["seconds"])
    return found


def _shape(base_identity: str, device: str, processes: int, config: TrainConfig, data: DatasetSummary) -> str:
    return digest([base_identity, device, processes, *step_shape(config, data)])
