"""From the start of the trainer's process to its first step, beside the bare imports of the same libraries.

Everything is encoded beforehand, so what is left is imports, reading the pictures' identities and the caches, loading
the UNet, W&B's start, and the step. The imports are the statements that our own modules make, without our
modules. Both take turns; what counts is the median difference. Prints a table and one JSON line.

    python -m benchmarks.train_start [BASE] [--pixels 64] [--batch 4] [--turns 5]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import write_pictures
from benchmarks.watched import Taken, run

BAR_S = 3.0
OURS = ("trainer", "sdxl", "contracts")


def main() -> None:
    asked = _arguments()
    starts, imports = [], []
    statements = library_imports()
    with TemporaryDirectory(prefix="bench-train-") as folder:
        root = Path(folder)
        recipe = root / "recipe.yaml"
        settings = {
            "steps": 1,
            "batch_size": asked.batch,
            "precision": asked.precision,
            "data": {"resolution_px": asked.pixels},
            "lora": {"rank": 16, "alpha": 16.0, "targets": "attn"},
            "checkpoint": {"every_steps": None},
            "measure_floor": False,
            "paths": {
                "base_dir": str(asked.base),
                "dataset_dir": str(write_pictures(root / "pictures", asked.pictures, asked.pixels)),
            },
        }
        recipe.write_text(yaml.safe_dump(settings))
        _start(root, recipe, "warming")
        for turn in range(asked.turns):
            starts.append(_start(root, recipe, str(turn)))
            words = [sys.executable, "-c", "\n".join(statements)]
            imports.append(run(words, env=_environment(), log=root / "imports.log"))
    table = Table("turn", "start to first step s", "bare imports s", "beyond s", "beyond, processor s")
    table.title = f"start-up on {asked.base.name}, {asked.pictures} pictures, everything cached"
    walls, processors = [], []
    for turn, (start, bare) in enumerate(zip(starts, imports, strict=True), start=1):
        assert start.first_step_s is not None
        assert start.first_step_processor_s is not None
        walls.append(start.first_step_s - bare.seconds)
        processors.append(start.first_step_processor_s - bare.processor_s)
        cells = (start.first_step_s, bare.seconds, walls[-1], processors[-1])
        table.add_row(str(turn), *(f"{value:.2f}" for value in cells))
    beyond = statistics.median(walls), statistics.median(processors)
    table.add_row("median", "", "", *(f"{value:.2f}" for value in beyond))
    Console().print(table)
    result = {
        "benchmark": "train_start",
        "beyond_imports_s": round(beyond[0], 3),
        "beyond_imports_processor_s": round(beyond[1], 3),
        "imports_s": round(statistics.median(one.seconds for one in imports), 3),
        "imports_processor_s": round(statistics.median(one.processor_s for one in imports), 3),
        "bar_s": BAR_S,
        "pictures": asked.pictures,
        "turns": asked.turns,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


def library_imports() -> list[str]:
    """Every import statement of the trainer's packages that names somebody else's module, once each."""
    found: dict[str, None] = {}
    for package in OURS:
        for file in sorted(Path(package).glob("*.py")):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.Import):
                    named = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    named = [node.module or ""]
                else:
                    continue
                if named != ["__future__"] and not any(name.partition(".")[0] in OURS for name in named):
                    found[ast.unparse(node)] = None
    return list(found)


def _start(root: Path, recipe: Path, name: str) -> Taken:
    words = [sys.executable, "-m", "trainer", str(recipe), "--run-dir", str(root / name)]
    words += ["--cache-dir", str(root / "cache")]
    log = root / name / "events.jsonl"

    def steps() -> int:
        return log.read_bytes().count(b'"type":"step"') if log.exists() else 0

    return run(words, env=_environment(), log=root / "start.log", steps=steps)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "PATINA", "OMP_"))}
    return kept | {"HF_HUB_OFFLINE": "1"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What starting the trainer costs beyond its libraries' imports.")
    parser.add_argument("base", type=Path, nargs="?", default=Path("bases/emoji-xl"))
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--pictures", type=int, default=210)
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
