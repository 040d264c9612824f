"""The trainer's own LoRA step beside its floor: a real run in which a bare pass of the UNet follows each step.

A step is everything the loop does: reading caches, forward, backward, clipping, AdamW, the event. Ratios are medians
over the turns, of wall and of processor time; the second is the truer one on a busy machine. Prints a table and one
JSON line.

    python -m benchmarks.train_step BASE [--pixels 256] [--batch 1] [--precision bf16] [--turns 7]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import write_pictures
from contracts import events
from contracts.events import Event
from contracts.rundir import RunDir
from contracts.train import parse_config
from trainer import run
from trainer.control import listening
from trainer.floor import bare, bare_pass
from trainer.folder import prepare
from trainer.loop import Record
from trainer.parts import Job, Parts
from trainer.processes import join
from trainer.recipe import DataSource, Recipe
from trainer.report import Report

BAR = 1.2


class Turns:
    """Hears of every step and lets a bare pass follow it; the first of both warms up."""

    def __init__(self, batch: int) -> None:
        self.parts: Parts | None = None
        self.steps: list[tuple[float, float]] = []
        """Wall and processor seconds of each."""
        self.floors: list[tuple[float, float]] = []
        self._batch = batch
        self._console = Console(stderr=True)
        self._mark = _clocks()

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.StepDone) and self.parts is not None:
            self.steps.append(_since(self._mark))
            model, inputs = self.parts.objective.model, self.parts.feed(event.step, range(self._batch))
            with bare(model):
                mark = _clocks()
                bare_pass(model, inputs)
                self.floors.append(_since(mark))
            taken = f"step {self.steps[-1][0]:.2f} s, floor {self.floors[-1][0]:.2f} s"
            self._console.print(
                f"turn {len(self.steps) - 1}: {taken}" if len(self.steps) > 1 else f"warming up: {taken}"
            )
        self._mark = _clocks()


def measure(base: Path, cache_dir: Path, settings: dict[str, Any], *, pixels: int, batch: int, turns: int) -> Turns:
    """Train ``turns`` + 1 steps on pictures made for it, each followed by a bare pass."""
    config = parse_config(
        {
            "steps": turns + 1,
            "batch_size": batch,
            "checkpoint": {"every_steps": None},
            "measure_floor": False,
            "tracking": {"enabled": False},
            "data": {"resolution_px": pixels},
        }
        | settings
    )
    heard = Turns(batch)
    gather = run.gather

    def gathering(*given: Any) -> Parts:
        heard.parts = gather(*given)
        return heard.parts

    run.gather = gathering  # type: ignore[assignment]
    try:
        with TemporaryDirectory() as folder:
            pictures = write_pictures(Path(folder) / "pictures", 2 * batch, pixels)
            run_dir = RunDir(Path(folder) / "run")
            run_dir.root.mkdir()
            prepare(run_dir, config)
            job = Job(Recipe(config, base, (DataSource(path=pictures),)), cache_dir, use_cache=True)
            with listening(run_dir, watches_files=True) as requests:
                run.train(job, run_dir, join(), requests, Report(heard), Record())
    finally:
        run.gather = gather
    heard.parts = None
    return heard


def main() -> None:
    asked = _arguments()
    lora = {"rank": asked.rank, "alpha": float(asked.rank), "targets": asked.targets}
    settings = {"precision": asked.precision, "lora": lora}
    heard = measure(asked.base, asked.cache_dir, settings, pixels=asked.pixels, batch=asked.batch, turns=asked.turns)
    pairs = list(zip(heard.steps, heard.floors, strict=True))[1:]
    table = Table("turn", "step s", "floor s", "ratio", "ratio of processor time")
    table.title = f"LoRA step of {asked.base.name}: {asked.pixels} px, batch {asked.batch}, {asked.precision}"
    for turn, (step, floor) in enumerate(pairs, start=1):
        cells = (step[0], floor[0], step[0] / floor[0], step[1] / floor[1])
        table.add_row(str(turn), *(f"{value:.3f}" for value in cells))
    ratios = [statistics.median(step[clock] / floor[clock] for step, floor in pairs) for clock in (0, 1)]
    table.add_row("median", "", "", *(f"{ratio:.3f}" for ratio in ratios))
    Console().print(table)
    result = {
        "benchmark": "train_step",
        "ratio": round(ratios[0], 4),
        "processor_ratio": round(ratios[1], 4),
        "bar": BAR,
        "step_s": round(statistics.median(step[0] for step, _ in pairs), 4),
        "floor_s": round(statistics.median(floor[0] for _, floor in pairs), 4),
        "pixels": asked.pixels,
        "batch": asked.batch,
        "rank": asked.rank,
        "targets": asked.targets,
        "precision": asked.precision,
        "turns": len(pairs),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(result))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(mark: tuple[float, float]) -> tuple[float, float]:
    now = _clocks()
    return now[0] - mark[0], now[1] - mark[1]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the trainer's LoRA step against its floor.")
    parser.add_argument("base", type=Path)
    parser.add_argument("--cache-dir", type=Path, default=Path("build/bench-train/cache"))
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", choices=("attn", "attn-ff"), default="attn")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--turns", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
