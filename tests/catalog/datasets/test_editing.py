"""Edits on both databases: what is undone, who is refused, and what removing an image leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.datasets import editing, rewriting
from catalog.datasets import service as datasets
from catalog.db import Database
from contracts.failures import FailureCode, PatinaError


def captions(database: Database, owner: str, dataset: str) -> dict[str, str | None]:
    with database.reading() as session:
        return {i.source_name: i.current_caption for i in editing.list_images(session, owner, dataset).items}


def identity(database: Database, owner: str, dataset: str, name: str) -> str:
    with database.reading() as session:
        items = editing.list_images(session, owner, dataset).items
        return next(image.image for image in items if image.source_name == name)


class TestEditing:
    def test_undo_gives_each_image_what_it_had_and_leaves_other_edits(
        self, database: Database, make: Any, owner: str
    ) -> None:
        dataset = make.dataset(images=3)
        first = identity(database, owner, dataset, "0.png")
        with database.session() as session:
            editing.write_caption(session, owner, dataset, first, "mine", None)
            editing.rewrite_captions(session, owner, dataset, "suffix", rewriting.suffixing("!"), None)
        assert captions(database, owner, dataset) == {"0.png": "mine!", "1.png": "caption 1!", "2.png": "caption 2!"}
        with database.session() as session:
            editing.undo(session, owner, dataset, None)
        assert captions(database, owner, dataset) == {"0.png": "mine", "1.png": "caption 1", "2.png": "caption 2"}

    def test_of_two_edits_based_on_one_state_the_second_is_refused(
        self, database: Database, make: Any, owner: str
    ) -> None:
        dataset = make.dataset(images=2)
        with database.reading() as session:
            seen = frozenset({editing.list_images(session, owner, dataset).revision})
        with database.session() as session:
            editing.rewrite_captions(session, owner, dataset, "prefix", rewriting.prefixing("a "), seen)
        with pytest.raises(PatinaError) as refused, database.session() as session:
            editing.rewrite_captions(session, owner, dataset, "prefix", rewriting.prefixing("b "), seen)
        assert refused.value.code is FailureCode.PRECONDITION_FAILED
        assert captions(database, owner, dataset)["0.png"] == "a caption 0"

    def test_a_removed_image_is_in_no_version_and_comes_back_with_its_caption(
        self, database: Database, make: Any, owner: str
    ) -> None:
        dataset = make.dataset(images=3)
        gone = identity(database, owner, dataset, "1.png")
        with database.session() as session:
            editing.write_caption(session, owner, dataset, gone, "mine", None)
            editing.remove_image(session, owner, dataset, gone, None)
            version = datasets.freeze(session, owner, dataset, 0.0).version
            names = {entry.row.source_name for entry in datasets.version_contents(session, owner, version.id)}
            fates = {row.filename: row.fate for row in datasets.ledger(session, owner, dataset)}
        assert names == {"0.png", "2.png"}
        assert (fates["1.png"], fates["1.txt"], fates["0.txt"]) == ("rejected", "rejected", "used")
        with database.session() as session:
            editing.restore_image(session, owner, dataset, gone, None)
            fates = {row.filename: row.fate for row in datasets.ledger(session, owner, dataset)}
        assert captions(database, owner, dataset)["1.png"] == "mine"
        assert set(fates.values()) == {"used"}

    def test_offering_a_removed_image_again_says_that_it_was_taken_out(
        self, database: Database, make: Any, owner: str
    ) -> None:
        dataset = make.dataset(images=2)
        with database.session() as session:
            editing.remove_image(session, owner, dataset, identity(database, owner, dataset, "1.png"), None)
        make.ingest(dataset, {"again.png": f"{dataset}/1"}, {}, owner)
        with database.session() as session:
            told = {row.filename: row for row in datasets.ledger(session, owner, dataset)}["again.png"]
        assert told.fate == "duplicate"
        assert (
            told.reason == "the same picture as 1.png, which was taken out of the dataset; put that one back to use it"
        )
