"""A run on several weighted data sets: it can be broken off like any other, and says what it was trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from safetensors import safe_open

import trainer.run
from contracts import events
from contracts.adapter import AdapterHeader
from contracts.rundir import Completed, Manifest, RunDir, Stopped
from tests.trainer.tiny import (
    command,
    environment,
    events_of,
    launch,
    make_pictures,
    make_recipe,
    outcome_of,
    same,
    stop_after,
    train,
    weights_of,
)

STEPS = 5


@pytest.fixture
def recipe(base_dir: Path, pictures: Path, tmp_path: Path) -> Path:
    """The pictures of every test at half weight, and the first four of them again at double weight."""
    again = make_pictures(tmp_path / "again", train=4, held_out=1)
    file = make_recipe(
        tmp_path / "r.yaml",
        base_dir,
        pictures,
        steps=STEPS,
        checkpoint__every_steps=None,
        preview__prompts=[],
        held_out__every_steps=None,
        optimizer__warmup_steps=0,
    )
    recipe = yaml.safe_load(file.read_text())
    del recipe["paths"]["dataset_dir"]
    recipe["paths"]["datasets"] = [{"path": str(pictures), "weight": 0.5}, {"path": str(again), "weight": 2}]
    file.write_text(yaml.safe_dump(recipe))
    return file


@pytest.mark.slow
def test_stopped_and_started_again_it_ends_in_the_same_weights(recipe: Path, cache_dir: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", RunDir(tmp_path / "broken")
    assert train(recipe, whole, cache_dir) == 0
    for step in range(1, STEPS):
        with pytest.MonkeyPatch.context() as patch:
            if step == 1:
                # Asked for before the first step, it would break off the first measurement.
                stop_after(step, broken.root, patch)
            else:
                broken.control("stop").touch()
            assert train(recipe, broken.root, cache_dir) == 0
        assert outcome_of(broken.root) == Stopped(step=step)
    assert train(recipe, broken.root, cache_dir) == 0
    assert isinstance(outcome_of(broken.root), Completed)
    assert same(weights_of(whole), weights_of(broken.root))


def test_sees_each_data_set_as_often_as_its_weight_says_and_names_them(
    recipe: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[Any] = []
    gather = trainer.run.gather
    monkeypatch.setattr(trainer.run, "gather", lambda *a: gathered.append(gather(*a)) or gathered[-1])
    whole = tmp_path / "whole"
    assert train(recipe, whole, cache_dir) == 0

    # Picture 4 is held out by one of the two: six of seven are trained on, four of them with both weights.
    schedule = gathered[0].schedule
    counted = Counter(index for epoch in range(8) for part in schedule.epoch(epoch) for index in part.samples)
    assert counted.total() == 8 * (6 * 0.5 + 4 * 2)

    with safe_open(whole / "weights" / "tiny.safetensors", framework="pt") as file:
        header = AdapterHeader.from_metadata(file.metadata())
    assert header is not None
    manifest = Manifest.model_validate_json(RunDir(whole).manifest.read_bytes())
    (started,) = (event for event in events_of(whole) if isinstance(event, events.Started))
    assert sorted(share.weight for share in header.datasets) == [0.5, 2]
    assert header.datasets == manifest.datasets == started.datasets
    assert header.dataset_version == manifest.dataset_digest
    assert (started.images, started.held_out_images) == (11, 3)
    warned = [event.message for event in events_of(whole) if isinstance(event, events.Warned)]
    assert "1 pictures are held out by another data set and not trained on" in warned


@pytest.mark.slow
def test_two_ranks_see_what_one_with_twice_the_accumulation_sees(recipe: Path, cache_dir: Path, tmp_path: Path) -> None:
    assert train(recipe, tmp_path / "one", cache_dir) == 0
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    told = [*command(recipe, tmp_path / "two", cache_dir), "gradient_accumulation_steps=1"]
    done = launch([*words, *told], environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


def test_encodes_a_picture_of_two_data_sets_once(recipe: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cold"
    assert train(recipe, tmp_path / "run", cache, "steps=1") == 0
    (shard,) = (cache / "latents").rglob("*.arrow")
    with pa.memory_map(str(shard)) as file:
        keys = pa.ipc.open_stream(file).read_all().column("key").to_pylist()
    plain = [key for key in keys if key.endswith("/plain")]
    assert len(plain) == len(set(plain)) == 9


def test_another_weight_is_another_run(
    recipe: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    stop_after(1, run_dir.root, monkeypatch)
    assert train(recipe, run_dir.root, cache_dir) == 0
    recipe.write_text(recipe.read_text().replace("weight: 2", "weight: 3"))
    assert train(recipe, run_dir.root, cache_dir) == 1
    assert "the data set was" in outcome_of(run_dir.root).message  # type: ignore[union-attr]
