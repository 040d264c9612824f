"""One run beside its plan: the bytes that were predicted, that a dispatch mode counts, and by which memory rises.

The run is the trainer's own from encoding to weights. It is measured the second time in its process: the first loads
what imports and first uses cost, code, vocabularies and the kernels that libraries compile for each shape, and leaves
no tensor. Prints one JSON line.

    python -m benchmarks.plan_run BASE --settings '{"batch_size": 1}' [--pixels 64] [--identities DIR]
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.pictures import write_pictures
from benchmarks.rss import memory, settle
from contracts import events
from contracts.events import Event
from contracts.plan import Plan, make_plan
from contracts.rundir import RunDir
from contracts.subject import set_apart, summarise_run
from contracts.train import TrainConfig, parse_config
from sdxl.base import describe
from sdxl.live import LiveStorages
from trainer.control import listening
from trainer.folder import prepare
from trainer.images import IdentityMemory
from trainer.loop import Record
from trainer.mixed import read_run_data
from trainer.parts import Job
from trainer.processes import join
from trainer.recipe import DataSource, Recipe
from trainer.report import Report
from trainer.run import train

COMMON: dict[str, Any] = {
    "steps": 3,
    "checkpoint": {"every_steps": None},
    "tracking": {"enabled": False},
    "optimizer": {"warmup_steps": 0},
}


class Peaks:
    """The most bytes of tensors alive at once, in all and in each phase of a run; hears of phases by its events."""

    def __init__(self) -> None:
        self.phase = "before"
        self.by_phase: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.Progress):
            self.phase = event.phase
        elif isinstance(event, events.Started):
            self.phase = "steps"

    def at_peak(self, live: int) -> None:
        self.by_phase[self.phase] = max(self.by_phase.get(self.phase, 0), live)


def run(base: Path, config: TrainConfig, pictures: Path, cache: Path, folder: Path, hears: Peaks) -> None:
    """A whole run, as the command line does it."""
    run_dir = RunDir(folder)
    run_dir.root.mkdir()
    prepare(run_dir, config)
    job = Job(Recipe(config, base, (DataSource(path=pictures),)), cache, use_cache=True)
    with listening(run_dir, watches_files=True) as requests:
        train(job, run_dir, join(), requests, Report(hears), Record())


def planned(base: Path, config: TrainConfig, pictures: Path, identities: Path) -> Plan:
    data = read_run_data((DataSource(path=pictures),), IdentityMemory(identities / "pictures.jsonl"))
    summary = summarise_run(*set_apart(data.mixture, config.prior), config)
    return make_plan(config, describe(base, cache_dir=identities), summary)


def weigh(tensor: torch.Tensor) -> int:
    """Of a tensor's whole storage; those without data weigh nothing."""
    return 0 if tensor.device.type == "meta" else tensor.untyped_storage().nbytes()


def main() -> None:
    # It recommends another library when it is loaded.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    asked = _arguments()
    settings = json.loads(asked.settings)
    config = configuration(settings, asked.pixels)
    asked.identities.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as there:
        folder = Path(there)
        pictures = write_pictures(folder / "pictures", 2 * config.batch_size + 1, asked.pixels, held_out=1)
        plan = planned(asked.base, config, pictures, asked.identities)
        for name in ("cold", "cache"):  # each run encodes
            shutil.copytree(asked.identities, folder / name / "identities")
        run(asked.base, config, pictures, folder / "cold", folder / "first", Peaks())
        before, peaks = settle(), Peaks()
        with LiveStorages(weigh, 0, peaks.at_peak):
            run(asked.base, config, pictures, folder / "cache", folder / "run", peaks)
        risen = memory("VmHWM") - before
    result = {
        "predicted": plan.memory_total,
        "counted": max(peaks.by_phase.values()),
        "risen": risen,
        "parts": plan.memory.model_dump(),
        "counted_by_phase": peaks.by_phase,
        "before": before,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def configuration(settings: dict[str, Any], pixels: int) -> TrainConfig:
    """A case's settings over those that all have in common."""
    merged = {**COMMON, **settings}
    for name in ("optimizer", "checkpoint", "data"):
        merged[name] = {**COMMON.get(name, {}), **settings.get(name, {})}
    merged["data"] = {"resolution_px": pixels} | merged["data"]
    if merged.get("method") == "full":
        # Written after the last step, from the weights file: no part of what a plan predicts.
        merged["export"] = {"layouts": []}
    return parse_config(merged)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a configuration and compare its memory with its plan.")
    parser.add_argument("base", type=Path)
    parser.add_argument("--settings", default="{}", help="of the configuration, as JSON")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--identities", type=Path, default=Path("build/bench-plan/identities"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
