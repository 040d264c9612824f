"""Our trainer beside diffusers' SDXL text-to-image LoRA example script: the same pictures, base, size, rank and steps.

Both run as they are started by hand, each in its own environment with nothing encoded before, one after the other.
The script is not ours and lies in PEER_DIR: ``venv/`` with the same torch and torchvision, and a checkout
``diffusers/`` with ``examples/``. It adapts the attention projections, so ours does. Prints a table and one JSON line.

    PEER_DIR=DIR python -m benchmarks.train_peer BASE [--pixels 64] [--batch 4] [--precision fp32] [--steps 200]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import write_pictures
from benchmarks.watched import Taken, run

SCRIPT = Path("diffusers/examples/text_to_image/train_text_to_image_lora_sdxl.py")
PRECISIONS = {"fp32": "no", "bf16": "bf16"}
MEASURES = {
    "whole run, s": "seconds",
    "whole run, processor s": "processor_s",
    "start to first step, s": "first_step_s",
    "step, s": "step_s",
    "step, processor s": "step_processor_s",
    "peak RSS, GB": "peak_rss_gb",
}


def main() -> None:
    asked = _arguments()
    with TemporaryDirectory(prefix="bench-train-") as folder:
        root = Path(folder)
        pictures = write_pictures(root / "pictures", asked.pictures, asked.pixels)
        ours = _ours(asked, root, pictures)
        theirs = _theirs(asked, root, pictures)
    table = Table("", "ours", "the script", "theirs / ours")
    table.title = f"{asked.base.name}: {asked.steps} steps, {asked.pixels} px, batch {asked.batch}, {asked.precision}"
    ratios = {}
    for words, name in MEASURES.items():
        mine, other = getattr(ours, name), getattr(theirs, name)
        ratios[name] = other / mine if mine and other else None
        cells = [f"{value:.3f}" if value is not None else "" for value in (mine, other, ratios[name])]
        table.add_row(words, *cells)
    Console().print(table)
    result = {
        "benchmark": "train_peer",
        "ratios": {name: ratio and round(ratio, 3) for name, ratio in ratios.items()},
        "ours": ours.told(),
        "script": theirs.told(),
        "steps": asked.steps,
        "pixels": asked.pixels,
        "batch": asked.batch,
        "pictures": asked.pictures,
        "rank": asked.rank,
        "precision": asked.precision,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


def _ours(asked: argparse.Namespace, root: Path, pictures: Path) -> Taken:
    settings: dict[str, Any] = {
        "steps": asked.steps,
        "batch_size": asked.batch,
        "precision": asked.precision,
        "data": {"resolution_px": asked.pixels, "caption_dropout": 0.0},
        "lora": {"rank": asked.rank, "alpha": float(asked.rank), "targets": "attn"},
        "optimizer": {"schedule": "constant"},
        "loss": {"min_snr_gamma": None},
        "checkpoint": {"every_steps": None},
        "paths": {"base_dir": str(asked.base), "dataset_dir": str(pictures)},
    }
    recipe = root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    words = [sys.executable, "-m", "trainer", str(recipe), "--run-dir", str(root / "ours")]
    words += ["--cache-dir", str(root / "cache")]
    log = root / "ours" / "events.jsonl"
    return run(words, env=_environment(root), log=root / "ours.log", steps=lambda: _count(log, b'"type":"step"'))


def _theirs(asked: argparse.Namespace, root: Path, pictures: Path) -> Taken:
    settings = {
        "pretrained_model_name_or_path": asked.base,
        "train_data_dir": pictures,
        "caption_column": "text",
        "resolution": asked.pixels,
        "train_batch_size": asked.batch,
        "max_train_steps": asked.steps,
        "rank": asked.rank,
        "learning_rate": 1e-4,
        "lr_warmup_steps": 0,
        "mixed_precision": PRECISIONS[asked.precision],
        "seed": 0,
        "output_dir": root / "theirs",
    }
    words = [str(asked.peer_dir / "venv/bin/python"), str(asked.peer_dir / SCRIPT)]
    words += [f"--{name}={value}" for name, value in settings.items()]
    log = root / "theirs.log"
    bar = re.compile(rb"(\d+)/%d \[" % asked.steps)

    def steps() -> int:
        found = bar.findall(log.read_bytes()[-4096:])
        return int(found[-1]) if found else 0

    return run(words, env=_environment(root), log=log, steps=steps)


def _environment(root: Path) -> dict[str, str]:
    """Nothing that was cached before, no network, and as many threads as torch takes by itself."""
    left_out = ("WANDB", "PATINA", "ACCELERATE", "OMP_", "HF_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {"HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "1"}


def _count(file: Path, mark: bytes) -> int:
    return file.read_bytes().count(mark) if file.exists() else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our trainer beside diffusers' example script.")
    parser.add_argument("base", type=Path)
    parser.add_argument("--peer-dir", type=Path, default=os.environ.get("PEER_DIR"))
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=210)
    asked = parser.parse_args()
    if asked.peer_dir is None or not (asked.peer_dir / SCRIPT).is_file():
        parser.error(f"PEER_DIR must hold {SCRIPT} and venv/ with torch and torchvision")
    return asked


if __name__ == "__main__":
    main()
