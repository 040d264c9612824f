"""What was probably not meant, told before freezing."""

from __future__ import annotations

import pytest

from catalog.datasets import editing, ingest, service
from catalog.datasets.doubts import find_doubts
from catalog.datasets.ingest import MetadataLine
from catalog.db import Database
from catalog.jobs import Queue
from contracts.dataset import Split
from contracts.failures import FailureCode, PatinaError
from tests.catalog.conftest import OWNER, Make


class Marked:
    """A dataset whose metadata says in which split each image is."""

    def __init__(self, make: Make, *splits: Split | None) -> None:
        self.database: Database = make.database
        self.id = make.dataset(images=len(splits))
        with self.database.session() as session:
            row = service.offer_upload(session, OWNER, self.id, "metadata.jsonl", f"uploads/{OWNER}/m", 10)
        claim = make.claim(Queue.LIGHT)
        lines = [MetadataLine(n, f"{n}.png", "", split=split) for n, split in enumerate(splits)]
        with self.database.session() as session:
            ingest.record_metadata(session, claim, row.id, lines)
            ingest.finish(session, claim)

    def doubts(self, share: float = 0.05) -> list[str]:
        with self.database.reading() as session:
            return [doubt.message for doubt in find_doubts(session, OWNER, self.id, share)]

    def mark(self, name: str, split: Split | None) -> None:
        with self.database.session() as session:
            (image,) = [one for one in editing.list_images(session, OWNER, self.id).items if one.source_name == name]
            editing.mark_image(session, OWNER, self.id, image.image, split, None)

    def held_out(self, share: float) -> int:
        with self.database.session() as session:
            return service.summary_of(service.freeze(session, OWNER, self.id, share).version).held_out_images


class TestSplits:
    def test_that_leave_nothing_to_measure_on_are_doubtful(self, make: Make) -> None:
        dataset = Marked(make, Split.TRAIN, Split.TRAIN, Split.TRAIN)
        (said,) = dataset.doubts()
        assert "none is held out" in said
        with dataset.database.session() as session, pytest.raises(PatinaError) as caught:
            service.freeze(session, OWNER, dataset.id)
        assert caught.value.code is FailureCode.DOUBTFUL_DATASET
        assert dataset.held_out(0) == 0, "who wants nothing held out is not asked"

    def test_that_hold_something_out_or_leave_it_open_are_not(self, make: Make) -> None:
        for other in (Split.HELD_OUT, None):
            dataset = Marked(make, Split.TRAIN, other, Split.TRAIN)
            assert dataset.doubts() == []
            assert dataset.held_out(0.05) == 1

    def test_that_a_person_chose_are_meant(self, make: Make) -> None:
        dataset = Marked(make, Split.TRAIN, Split.TRAIN)
        dataset.mark("0.png", Split.TRAIN)
        assert dataset.doubts() != []
        dataset.mark("1.png", Split.TRAIN)
        assert dataset.doubts() == []
        dataset.mark("1.png", Split.HELD_OUT)
        assert dataset.doubts() == []

    def test_of_a_single_image_are_as_good_as_they_can_be(self, make: Make) -> None:
        assert Marked(make, Split.TRAIN).doubts() == []
