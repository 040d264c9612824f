"""A full-size SDXL with random weights goes the whole way: what can be proved of the real thing without its weights.

Added, generated with, trained for 3 steps at 256 px, registered and generated with again, through the command line
and real processes, which together must fit a machine of 16 GB: generation computes in bf16. The base takes 7 GB of
disk and a minute to write; PATINA_FULL_SIZE_BASE names a folder that `python -m benchmarks.random_sdxl` has written
before, used as it is.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from tests.machine import machine_on
from tests.memory import Memory, watched
from trainer.recipe import read_recipe
from trainer.weights import check_patterns

REPOSITORY = Path(__file__).parents[2]
MEMORY_BYTES = 16e9
A_BASE_BYTES = 4e9
"""Less than the UNet in its smallest form: a process with more holds a base."""
SIDE_PX = 256
PICTURES = 3
STEPS = 3
SETTINGS = [
    f"steps={STEPS}",
    f"data.resolution_px={SIDE_PX}",
    "batch_size=1",
    "precision=bf16",
    "lora.rank=16",
    "lora.alpha=16",
    "lora.targets=attn",
    "lora.alpha_pattern={}",
    "lora.strength_pattern={}",
    "optimizer.warmup_steps=0",
    "output_name=full-size",
    "trigger_word=full size",
    "preview.prompts=[]",
    "tracking.enabled=false",
]
PROJECTIONS = 4 * 2 * 70
"""to_q, to_k, to_v and to_out of both attentions in the 70 transformer blocks of SDXL's UNet."""


@dataclass(frozen=True)
class Story:
    """What the journey left to look at."""

    memory: Memory
    base: dict[str, Any]
    run: dict[str, Any]
    weights: dict[str, Any]
    pictures: dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base's folder; one written here is removed, as pytest would keep 7 GB of each of the last sessions."""
    if written := os.environ.get("PATINA_FULL_SIZE_BASE"):
        yield Path(written).resolve()
        return
    folder = tmp_path_factory.mktemp("base") / "random-xl"
    # In a process of its own, and before anything is measured.
    subprocess.run([sys.executable, "-m", "benchmarks.random_sdxl", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def story(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    work = tmp_path_factory.mktemp("full-size")
    with machine_on(work / "home", PATINA_PRECISION="bf16") as machine, watched(machine.processes) as memory:

        def run(phase: str, *arguments: str) -> dict[str, Any]:
            with memory.phase(phase):
                code, document = machine.run(*arguments)
            assert code == 0, document
            return dict(document)

        def generate(phase: str, *choice: str) -> NDArray[np.uint8]:
            file = work / "picture.png"
            asked = ("full size, a square", "--steps=2", "--seed=7", f"--size={SIDE_PX}x{SIDE_PX}")
            run(phase, "generate", *asked, *choice, "-o", str(file))
            return np.asarray(Image.open(file).convert("RGB"))

        with memory.phase("start"):
            machine.up()
        base = run("add the base", "bases", "add", str(source), "--name=random-xl")
        folder = _dataset(work / "squares")
        run("upload", "datasets", "upload", str(folder), "--name=squares", "--freeze", "--held-out-share=0")
        pictures = {"base": generate("generate with the base", "--base=random-xl")}
        create = ("runs", "create", "--dataset=squares", "--base=random-xl", "--recipe=demo", "--watch")
        trained = run(f"train {STEPS} steps", *create, *SETTINGS)
        weights = run("download", "weights", "download", "full-size@latest", "-o", str(work))
        pictures["lora"] = generate("generate with the LoRA", "--weights=full-size@latest")
        pictures["off"] = generate("generate with the LoRA at 0", "--weights=full-size@latest:0")
        _show(memory, trained)
        yield Story(memory, base, trained, weights, pictures)


def test_its_settings_go_with_the_demos_recipe_as_it_is_today() -> None:
    """So that the long tests below, which few run, are not refused the day the recipe changes."""
    recipe = read_recipe(
        REPOSITORY / "configs/train/demo.yaml",
        SETTINGS,
        base_dir=REPOSITORY / "bases/emoji-xl",
        dataset_dirs=[REPOSITORY / "datasets/twemoji-style"],
    )
    check_patterns(recipe.base_dir, recipe.config)


@pytest.mark.full
class TestFullSize:
    def test_it_is_sdxl_in_its_true_size(self, story: Story) -> None:
        assert story.base["native_px"] == 1024
        assert story.base["parameters"] == 2_567_463_684

    def test_all_processes_together_fit_in_16_gb(self, story: Story) -> None:
        assert story.memory.peak_bytes < MEMORY_BYTES

    def test_engine_and_trainer_never_hold_the_base_at_once(self, story: Story) -> None:
        held = [(sample.get("worker.generate", 0), sample.get("trainer", 0)) for sample in story.memory.samples]
        assert max(engine for engine, _ in held) > A_BASE_BYTES
        assert max(trainer for _, trainer in held) > A_BASE_BYTES
        assert max(min(both) for both in held) < A_BASE_BYTES

    def test_the_run_trains_and_its_weights_are_registered(self, story: Story) -> None:
        assert (story.run["status"], story.run["step"], story.run["attempt"]) == ("succeeded", STEPS, 1)
        assert (story.weights["version"], story.weights["run"]) == (1, story.run["id"])
        with safe_open(story.weights["file"], "pt") as file:
            updates = [file.get_tensor(key) for key in file.keys() if "lora_up" in key]  # noqa: SIM118 (no mapping)
        assert len(updates) == PROJECTIONS
        assert all(update.isfinite().all() and update.any() for update in updates)

    def test_the_weights_change_the_picture_and_their_scale_is_obeyed(self, story: Story) -> None:
        pictures = story.pictures
        assert {picture.shape for picture in pictures.values()} == {(SIDE_PX, SIDE_PX, 3)}
        assert all(picture.std() > 1 for picture in pictures.values())
        assert np.array_equal(pictures["off"], pictures["base"])
        assert not np.array_equal(pictures["lora"], pictures["base"])


def _dataset(folder: Path) -> Path:
    folder.mkdir()
    chosen = random.Random(0)
    for index in range(PICTURES):
        picture = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
        left, top = chosen.randrange(128), chosen.randrange(128)
        picture.paste(tuple(chosen.randrange(256) for _ in range(3)), (left, top, left + 100, top + 100))
        picture.save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a square number {index}")
    return folder


def _show(memory: Memory, trained: dict[str, Any]) -> None:
    table = Table("phase", "seconds", "peak GB", "of which", title="Full-size SDXL")
    for phase in memory.phases:
        largest = sorted(phase.peak_by_process.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{kind} {held / 1e9:.2f}" for kind, held in largest)
        table.add_row(phase.name, f"{phase.seconds:.1f}", f"{phase.peak_bytes / 1e9:.2f}", parts)
    outcome = trained["outcome"]
    console = Console(width=120)
    console.print(table)
    console.print(f"peak of all: {memory.peak_bytes / 1e9:.2f} GB; of one process: {memory.largest_bytes / 1e9:.2f} GB")
    console.print(
        f"loss {outcome['loss_first']:.4f} -> {outcome['loss_last']:.4f}; {outcome['train_seconds']:.1f} s of steps"
    )
