"""What plans are told of the data that feeds a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.datasets import service as datasets
from catalog.db import Database
from catalog.runs import service as runs
from contracts.failures import InvalidInput
from contracts.run import RunRequest

CLASS = {"class_prompt": "a dog", "concept": "dog"}


@pytest.fixture
def dogs(database: Database, make: Any, owner: str) -> str:
    """Three pictures of the subject and six of the class, one of each held out."""
    make.base()
    dataset_id: str = make.dataset(name="dogs", images=0)
    files = {f"{number}.png": f"own {number}" for number in range(2)} | {"held_out/2.png": "own 2"}
    files |= {f"1_dog/{number}.png": f"dog {number}" for number in range(5)} | {"held_out/1_dog/5.png": "dog 5"}
    make.ingest(dataset_id, files, {})
    with database.session() as session:
        datasets.freeze(session, owner, dataset_id)
    return dataset_id


class TestSummarise:
    def test_leaves_out_class_pictures(self, database: Database, owner: str, recipes: Path, dogs: str) -> None:
        found = []
        for prior in (None, CLASS):
            request = RunRequest(dataset=dogs, base="emoji", recipe="demo", overrides={"prior": prior})
            with database.reading() as session:
                plan = runs.plan(session, owner, request, recipes)
            found.append((plan.images, plan.held_out_images, sum(plan.buckets.values()), plan.epochs))
        # Ten steps of two pictures: seven a round, or two.
        assert found == [(7, 2, 7, 2.5), (2, 1, 2, 10.0)]

    def test_knows_captions_that_are_encoded_at_each_use(
        self, database: Database, make: Any, owner: str, recipes: Path
    ) -> None:
        make.base()
        dataset_id = make.dataset(images=0)
        make.ingest(dataset_id, {"0.png": "0", "1.png": "1"}, {f"{n}.txt": "a, b, c, d, e, f" for n in range(2)})
        with database.session() as session:
            datasets.freeze(session, owner, dataset_id, 0.0)
        stays = []
        for shuffle in (False, True):
            overrides = {"data.captions.shuffle": shuffle}
            request = RunRequest(dataset=dataset_id, base="emoji", recipe="demo", overrides=overrides)
            with database.reading() as session:
                stays.append(runs.plan(session, owner, request, recipes).memory.encoders)
        assert stays == [0, 10_000 * 4]

    def test_refuses_a_concept_that_no_picture_has(
        self, database: Database, owner: str, recipes: Path, dogs: str
    ) -> None:
        overrides = {"prior": CLASS | {"concept": "cat"}}
        request = RunRequest(dataset=dogs, base="emoji", recipe="demo", overrides=overrides)
        with database.reading() as session, pytest.raises(InvalidInput) as caught:
            runs.plan(session, owner, request, recipes)
        assert [error.pointer for error in caught.value.errors] == ["/overrides/prior"]
