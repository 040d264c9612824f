"""Factories: a tiny random SDXL, a handful of pictures, and runs of the real command line on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from contracts.events import EVENT, Event, HeldOut, StepDone
from contracts.rundir import OUTCOME, Outcome, RunDir
from sdxl import dialects
from sdxl.formats import read_header
from trainer.cli import main
from trainer.report import EventFile

SETTINGS: dict[str, Any] = {
    "steps": 6,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "precision": "fp32",
    "seed": 3,
    "trigger_word": "tok style",
    "output_name": "tiny",
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1},
    "optimizer": {"learning_rate": 0.01, "warmup_steps": 1},
    "data": {"flip": True, "caption_dropout": 0.3},
    "checkpoint": {"every_steps": 1, "keep": 2},
    "preview": {"prompts": ["a cat"], "sampling_steps": 2, "every_steps": 3},
    "held_out": {"every_steps": 3, "timesteps": 2},
    "tracking": {"enabled": False},
    "measure_floor": False,
}
"""Every part of the trainer at work, in a few small steps; all but the floor, which takes as long as one of them."""


def empty_cache(folder: Path, known_shapes: Path) -> Path:
    """A cache of a test's own, but for what is known of bases."""
    folder.mkdir(exist_ok=True)
    (folder / "identities").symlink_to(known_shapes)
    return folder


def make_pictures(folder: Path, *, train: int = 7, held_out: int = 2) -> Path:
    """An imagefolder of noise in two aspects, so that there are two buckets and short batches."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(0)
    lines = []
    for number in range(train + held_out):
        width, height = (64, 64) if number % 3 else (48, 80)
        pixels = drawn.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
        split = "train" if number < train else "held_out"
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}", "split": split}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def name_concept(pictures: Path, concept: str, numbers: range) -> None:
    """Say that these of ``make_pictures`` are of this concept."""
    file = pictures / "metadata.jsonl"
    said = [json.loads(line) for line in file.read_text().splitlines()]
    named = [one | {"concept": concept} if number in numbers else one for number, one in enumerate(said)]
    file.write_text("".join(json.dumps(one) + "\n" for one in named))


def make_recipe(file: Path, base: Path, pictures: Path, **changes: Any) -> Path:
    """SETTINGS with ``changes`` (dotted keys with __ for the dot), as a recipe that says where things are."""
    settings = json.loads(json.dumps(SETTINGS))
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = settings
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    settings["paths"] = {"base_dir": str(base), "dataset_dir": str(pictures)}
    file.write_text(yaml.safe_dump(settings))
    return file


def train(recipe: Path, run_dir: Path, cache_dir: Path, *more: str) -> int:
    """The command line, in this process."""
    return main([str(recipe), "--run-dir", str(run_dir), "--cache-dir", str(cache_dir), *more])


def stop_after(step: int, run_dir: Path, monkeypatch: pytest.MonkeyPatch, how: str = "control file") -> None:
    """Have the next `train` in this process asked to stop so that ``step`` is the last it does."""
    write = EventFile.__call__

    def asking(self: EventFile, event: Event) -> None:
        write(self, event)
        # A request is looked for in each step: what is asked just before it ends the run after it.
        if event.step == step - 1 and isinstance(event, StepDone | HeldOut):
            if how == "control file":
                RunDir(run_dir).control("stop").touch()
            else:
                os.kill(os.getpid(), signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)

    monkeypatch.setattr(EventFile, "__call__", asking)


def command(recipe: Path, run_dir: Path, cache_dir: Path) -> list[str]:
    """The command line's words after whatever launches it."""
    return ["-m", "trainer", str(recipe), "--run-dir", str(run_dir), "--cache-dir", str(cache_dir)]


def environment(**more: str) -> dict[str, str]:
    """Of a trainer in its own process: one thread, no network, no W&B key."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "PATINA", "ACCELERATE"))}
    return kept | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"} | more


def launch(words: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=dict(env), capture_output=True, text=True, timeout=240)


def kill_when(moment: Literal["started", "stepped", "saving"], recipe: Path, run_dir: RunDir, cache_dir: Path) -> bool:
    """Start the command line in its own process and kill -9 it at its first such moment; False if it ended before.

    started: it has said what it trains. stepped: it has said so of a step. saving: a checkpoint is being written.
    """
    word = {"started": '"type":"started"', "stepped": '"type":"step"', "saving": '"type":"step"'}[moment]
    said = run_dir.events.read_text().count(word) if run_dir.events.exists() else 0
    left_over = set(run_dir.checkpoints.glob(".tmp-*"))
    child = subprocess.Popen([sys.executable, *command(recipe, run_dir.root, cache_dir)], env=environment())
    try:
        while child.poll() is None:
            if run_dir.events.exists() and run_dir.events.read_text().count(word) > said:
                break
            time.sleep(0.001)
        while moment == "saving" and child.poll() is None:
            # A save takes tenths of a second: it is held where it is and looked at again.
            if set(run_dir.checkpoints.glob(".tmp-*")) - left_over:
                hold(child.pid)
                if set(run_dir.checkpoints.glob(".tmp-*")) - left_over:
                    break
                child.send_signal(signal.SIGCONT)
        return child.poll() is None
    finally:
        child.kill()
        child.wait()


def hold(pid: int) -> None:
    """SIGSTOP, and not back before the process has stopped."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
        time.sleep(0.001)


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    """What a run published, by the names it is trained under: a LoRA's in any dialect are PEFT's."""
    (file,) = (run_dir / "weights").glob("*.safetensors")
    header = read_header(file)
    assert header is not None
    return load_file(file) if header.method == "full" else dialects.read(file).state


def events_of(run_dir: Path) -> list[Event]:
    return [EVENT.validate_json(line) for line in RunDir(run_dir).events.read_text().splitlines()]


def losses(run_dir: Path) -> list[float]:
    return [event.loss for event in events_of(run_dir) if isinstance(event, StepDone)]


def outcome_of(run_dir: Path) -> Outcome:
    return OUTCOME.validate_json(RunDir(run_dir).outcome.read_bytes())


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
