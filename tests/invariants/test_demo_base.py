"""The promises of exactness on the demo base, through the real command line: slow, and nothing in them is made small.

`reference` is the run the others are held against.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from contracts import events
from contracts.rundir import Completed, Grace, RunDir
from tests.trainer.tiny import (
    command,
    environment,
    events_of,
    kill_when,
    launch,
    make_pictures,
    make_recipe,
    outcome_of,
    same,
    weights_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEMO_BASE = Path(__file__).parents[2] / "bases" / "emoji-xl"
MOMENTS: tuple[Literal["started", "stepped", "saving"], ...] = (
    *("saving",) * 4,
    *("stepped",) * 4,
    *("started",) * 2,
)
"""Of the ten kills; their order is drawn."""
DEMO: dict[str, Any] = {
    "steps": 12, "checkpoint__every_steps": 1, "checkpoint__keep": 2, "preview__prompts": [],
    "held_out__every_steps": 4, "measure_floor": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a cache and recipes beside each other."""
    folder = tmp_path_factory.mktemp("demo")
    make_pictures(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def reference(demo: Path) -> Path:
    recipe = make_recipe(demo / "r.yaml", DEMO_BASE, demo / "pictures", **DEMO | {"checkpoint__keep": 99})
    run(command(recipe, demo / "reference", demo / "cache"))
    return demo / "reference"


class TestBitForBit:
    def test_encoding_anew_at_each_use(self, reference: Path, demo: Path) -> None:
        recipe = make_recipe(demo / "r.yaml", DEMO_BASE, demo / "pictures", **DEMO)
        run([*command(recipe, demo / "uncached", demo / "nothing"), "--no-cache"])
        assert same(weights_of(demo / "uncached"), weights_of(reference))
        assert by_step(demo / "uncached") == by_step(reference)

    def test_two_gloo_ranks_and_two_accumulated_batches(self, reference: Path, demo: Path) -> None:
        recipe = make_recipe(demo / "ranks.yaml", DEMO_BASE, demo / "pictures", **DEMO, gradient_accumulation_steps=1)
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        run([*words, *command(recipe, demo / "ranks", demo / "cache")])
        (started,) = (event for event in events_of(demo / "ranks") if isinstance(event, events.Started))
        assert started.processes == 2
        assert same(weights_of(demo / "ranks"), weights_of(reference))
        assert by_step(demo / "ranks") == by_step(reference)

    def test_killed_ten_times_saves_included(self, reference: Path, demo: Path) -> None:
        recipe = make_recipe(demo / "killed.yaml", DEMO_BASE, demo / "pictures", **DEMO)
        run_dir, moments = RunDir(demo / "killed"), list(MOMENTS)
        random.Random(4).shuffle(moments)
        for moment in moments:
            assert kill_when(moment, recipe, run_dir, demo / "cache")
        run(command(recipe, run_dir.root, demo / "cache"))
        assert same(weights_of(run_dir.root), weights_of(reference))
        assert by_step(run_dir.root) == by_step(reference)
        assert all(event.exact for event in events_of(run_dir.root) if isinstance(event, events.Started))


class TestWithinRounding:
    def test_one_batch_of_four_and_four_of_one_after_thirty_steps(self, demo: Path) -> None:
        found = []
        for batch, accumulated in ((4, 1), (1, 4)):
            recipe = make_recipe(
                demo / f"{batch}.yaml", DEMO_BASE, demo / "pictures",
                **DEMO | {"steps": 30, "checkpoint__every_steps": None, "held_out__every_steps": None},
                batch_size=batch, gradient_accumulation_steps=accumulated, optimizer__learning_rate=1e-3,
            )  # fmt: skip
            run(command(recipe, demo / f"batch-{batch}", demo / "cache"))
            found.append(torch.cat([tensor.flatten() for tensor in weights_of(demo / f"batch-{batch}").values()]))
        assert torch.linalg.vector_norm(found[0] - found[1]) / torch.linalg.vector_norm(found[0]) < 1e-4


class TestWhatMoves:
    def test_every_adapter_tensor_does(self, reference: Path) -> None:
        first = load_file(RunDir(reference).checkpoint(1) / "weights.safetensors")
        last = load_file(RunDir(reference).checkpoint(12) / "weights.safetensors")
        assert len(last) > 100
        assert [name for name in last if torch.equal(first[name], last[name])] == []


class TestGrace:
    def test_is_under_ten_seconds(self, reference: Path) -> None:
        assert isinstance(outcome_of(reference), Completed)
        assert Grace.model_validate_json(RunDir(reference).grace.read_bytes()).grace_s < 10


def run(words: list[str]) -> None:
    done = launch(words, environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo"))
    assert done.returncode == 0, done.stdout + done.stderr


def by_step(run_dir: Path) -> dict[int, float]:
    """The loss of each step; of one done twice the last."""
    return {event.step: event.loss for event in events_of(run_dir) if isinstance(event, events.StepDone)}
