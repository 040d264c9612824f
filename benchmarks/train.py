"""Every figure about the trainer, one after the other, each in processes of its own; `make bench-train` runs it.

What is measured is kept as one JSON file a figure in build/bench-train/, so a broken-off call goes on where it was;
``--again`` measures anew. Full size (a base of 7 GB is written first, and the script takes 17 GB of memory) only with
``--full``; the example script only with ``--peer-dir`` or PEER_DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.watched import available_gb

KEPT = Path("build/bench-train")
TINY = Path("bases/emoji-xl")
FULL = KEPT / "random-sdxl"
TINY_SHAPE = ("--pixels=64", "--batch=4", "--precision=fp32")
FULL_SHAPE = ("--pixels=256", "--batch=1", "--precision=bf16")
STEP_GB, SCRIPT_GB = 10.0, 18.0
"""Memory that the full-size step, and the script at full size, must find."""


def main() -> None:
    asked, console = _arguments(), Console()
    KEPT.mkdir(parents=True, exist_ok=True)
    cache = f"--cache-dir={KEPT / 'cache'}"
    peer = [f"--peer-dir={asked.peer_dir}"] if asked.peer_dir else None
    _measure("start", ["benchmarks.train_start", str(TINY)], asked, console)
    _measure("step-tiny", ["benchmarks.train_step", str(TINY), cache, *TINY_SHAPE], asked, console)
    if peer:
        _measure("peer-tiny", ["benchmarks.train_peer", str(TINY), *TINY_SHAPE, *peer], asked, console)
    if asked.full:
        if not (FULL / "unet" / "diffusion_pytorch_model.safetensors").exists():
            subprocess.run([sys.executable, "-m", "benchmarks.random_sdxl", str(FULL)], check=True)
        words = ["benchmarks.train_step", str(FULL), cache, *FULL_SHAPE]
        _measure("step-full", words, asked, console, needs_gb=STEP_GB)
        if peer:
            words = ["benchmarks.train_peer", str(FULL), *FULL_SHAPE, "--steps=5", "--pictures=5", *peer]
            _measure("peer-full", words, asked, console, needs_gb=SCRIPT_GB)
    _summarise(console)


def _measure(
    name: str, words: Sequence[str], asked: argparse.Namespace, console: Console, *, needs_gb: float = 0.0
) -> None:
    """Run one benchmark unless it was run before, and keep its last line."""
    file = KEPT / f"{name}.json"
    if file.exists() and not asked.again:
        console.print(f"{name}: measured before, kept in {file}")
        return
    if available_gb() < needs_gb:
        console.print(f"{name}: left out, it needs {needs_gb:.0f} GB and {available_gb():.1f} GB are free")
        return
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=True)
    console.print(done.stdout, end="", markup=False, highlight=False, soft_wrap=True)
    result = json.loads(done.stdout.splitlines()[-1])
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2))
    temporary.replace(file)


def _summarise(console: Console) -> None:
    """Each bar with what was measured; wall time and, where it was taken, processor time."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(KEPT.glob("*.json"))}
    table = Table("what", "bar", "wall", "processor time", title="the trainer's bars")

    def row(what: str, bar: str, name: str, wall: Sequence[str], processor: Sequence[str]) -> None:
        values = [_at(found.get(name), path) for path in (wall, processor)]
        if any(values):
            table.add_row(what, bar, *values)

    row("LoRA step, full size, over its floor", "<= 1.2", "step-full", ["ratio"], ["processor_ratio"])
    row("the same on the demo base", "", "step-tiny", ["ratio"], ["processor_ratio"])
    for name, size, run_bar, step_bar in (
        ("peer-full", "full size", ">= 2.5", ">= 2"),
        ("peer-tiny", "tiny", ">= 2", ""),
    ):
        row(f"script's step over ours, {size}", step_bar, name, ["ratios", "step_s"], ["ratios", "step_processor_s"])
        row(f"script's run over ours, {size}", run_bar, name, ["ratios", "seconds"], ["ratios", "processor_s"])
        row(f"script's peak RSS over ours, {size}", ">= 2" if step_bar else "", name, ["ratios", "peak_rss_gb"], [])
    row("start to first step beyond imports, s", "<= 3", "start", ["beyond_imports_s"], ["beyond_imports_processor_s"])
    console.print(table)


def _at(result: object, path: Sequence[str]) -> str:
    for name in path:
        result = result.get(name) if isinstance(result, dict) else None
    return f"{result:.2f}" if path and isinstance(result, float | int) else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the trainer.")
    parser.add_argument("--full", action="store_true", help="at full size too: a base of 7 GB, minutes, up to 18 GB")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument("--peer-dir", type=Path, default=os.environ.get("PEER_DIR"), help="folder of the script")
    return parser.parse_args()


if __name__ == "__main__":
    main()
