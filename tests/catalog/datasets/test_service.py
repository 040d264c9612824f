"""Datasets as their owners use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalog.datasets import editing, repository
from catalog.datasets import service as datasets
from catalog.db import Database
from catalog.jobs import Queue
from contracts.dataset import DatasetStatus, Fate, Split, version_digest
from contracts.failures import FailureCode, InvalidInput, PatinaError


def _freeze(database: Database, owner: str, dataset_id: str, **arguments: Any) -> datasets.Freeze:
    with database.session() as session:
        return datasets.freeze(session, owner, dataset_id, **arguments)


class TestCreate:
    def test_makes_an_empty_dataset(self, database: Database, owner: str) -> None:
        with database.session() as session:
            made = datasets.create(session, owner, "cats")
        assert (made.name, made.status, made.images) == ("cats", DatasetStatus.EMPTY, 0)
        assert made.id.startswith("ds_")

    def test_refuses_a_name_the_owner_has_and_allows_it_to_others(self, database: Database, owner: str) -> None:
        with database.session() as session:
            datasets.create(session, owner, "cats")
            datasets.create(session, "bob", "cats")
            with pytest.raises(PatinaError) as caught:
                datasets.create(session, owner, "cats")
        assert caught.value.code == FailureCode.CONFLICT

    def test_refuses_a_name_that_was_taken_at_this_moment(
        self, database: Database, owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(datasets.repository, "find", lambda *_: None)
        with database.session() as session:
            datasets.create(session, owner, "cats")
            with pytest.raises(PatinaError) as caught:
                datasets.create(session, owner, "cats")
        assert caught.value.code == FailureCode.CONFLICT

    @pytest.mark.parametrize("name", ["", "Cats", "a b", "../x", "-x", "x" * 65, "a\n"])
    def test_refuses_what_is_not_a_name(self, database: Database, owner: str, name: str) -> None:
        with database.session() as session, pytest.raises(InvalidInput) as caught:
            datasets.create(session, owner, name)
        assert caught.value.errors[0].pointer == "/name"


class TestRead:
    def test_finds_by_id_and_by_name(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.dataset("cats")
        with database.reading() as session:
            by_id, by_name = (datasets.read(session, owner, word) for word in (dataset_id, "cats"))
        assert by_id == by_name
        assert (by_id.status, by_id.images, by_id.pending_files) == (DatasetStatus.READY, 3, 0)

    def test_lists_an_owner_s_own_newest_first(self, database: Database, owner: str, make: Any) -> None:
        names = ["one", "two", "three"]
        for name in names:
            make.dataset(name, images=0)
        make.dataset("theirs", images=0, owner="bob")
        with database.reading() as session:
            found = datasets.list_datasets(session, owner)
        assert [view.name for view in found.items] == names[::-1]


class TestAnotherOwner:
    def test_sees_and_changes_nothing(self, database: Database, make: Any) -> None:
        dataset_id = make.frozen(name="cats")
        attempts: list[Callable[[Any], object]] = [
            lambda session: datasets.read(session, "bob", dataset_id),
            lambda session: datasets.read(session, "bob", "cats"),
            lambda session: datasets.offer_upload(session, "bob", dataset_id, "a.png", "uploads/bob/x", 1),
            lambda session: datasets.note_refused(session, "bob", dataset_id, "a.png", 1, "too large"),
            lambda session: datasets.ledger(session, "bob", dataset_id),
            lambda session: datasets.freeze(session, "bob", dataset_id),
            lambda session: datasets.list_versions(session, "bob", dataset_id),
            lambda session: datasets.read_version(session, "bob", dataset_id),
        ]
        for attempt in attempts:
            with database.session() as session, pytest.raises(PatinaError) as caught:
                attempt(session)
            assert caught.value.code == FailureCode.NOT_FOUND
        with database.reading() as session:
            assert datasets.list_datasets(session, "bob").items == []

    def test_gets_neither_a_version_by_its_id_nor_an_image_by_its_hash(
        self, database: Database, owner: str, make: Any
    ) -> None:
        dataset_id = make.frozen()
        with database.reading() as session:
            version = datasets.read_version(session, owner, dataset_id)
            image = datasets.version_contents(session, owner, version.id)[0].row.image
            assert datasets.find_image(session, owner, image) is not None
            assert datasets.find_image(session, "bob", image) is None
            assert datasets.version_contents(session, "bob", version.id) == []
            with pytest.raises(PatinaError):
                datasets.version_by_id(session, "bob", version.id)


class TestOfferUpload:
    def test_makes_one_job_for_many_files(self, database: Database, owner: str, make: Any, rung: list[str]) -> None:
        dataset_id = make.dataset(images=0)
        rung.clear()
        with database.session() as session:
            for index in range(5):
                datasets.offer_upload(session, owner, dataset_id, f"{index}.png", "uploads/ada/x", 10)
        assert rung == ["light"]
        assert make.claim(Queue.LIGHT).subject_id == dataset_id
        with pytest.raises(AssertionError, match="nothing to claim"):
            make.claim(Queue.LIGHT)

    @pytest.mark.parametrize(
        ("offered", "kept"),
        [
            ("../../etc/x.png", "etc/x.png"),
            ("C:\\pics\\a.png", "C:/pics/a.png"),
            ("/abs/a.png", "abs/a.png"),
            ("", "unnamed"),
        ],
    )
    def test_keeps_a_name_that_leads_nowhere(
        self, database: Database, owner: str, make: Any, offered: str, kept: str
    ) -> None:
        dataset_id = make.dataset(images=0)
        with database.session() as session:
            assert datasets.offer_upload(session, owner, dataset_id, offered, "uploads/ada/x", 1).filename == kept


class TestNoteRefused:
    def test_is_a_line_of_the_ledger_and_nothing_to_read(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.dataset(images=0)
        with database.session() as session:
            datasets.note_refused(session, owner, dataset_id, "huge.png", 10, "over the limit")
        with database.reading() as session:
            row = datasets.ledger(session, owner, dataset_id)[0]
            assert datasets.read(session, owner, dataset_id).status == DatasetStatus.EMPTY
        assert (row.fate, row.reason) == (Fate.REJECTED, "over the limit")


class TestFreeze:
    def test_keeps_images_captions_and_splits_of_this_moment(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.dataset(images=8)
        frozen = _freeze(database, owner, dataset_id, held_out_share=0.25)
        assert (frozen.created, frozen.version.number) == (True, 1)
        with database.reading() as session:
            contents = datasets.version_contents(session, owner, frozen.version.id)
        rows = [entry.row for entry in contents]
        assert version_digest(rows) == frozen.version.digest
        assert {row.caption for row in rows} == {f"caption {index}" for index in range(8)}
        summary = datasets.summary_of(frozen.version)
        assert summary.held_out_images == sum(row.split is Split.HELD_OUT for row in rows) > 0
        assert summary.train_sizes == {"64x48": 8 - summary.held_out_images}

    def test_of_the_same_content_is_the_same_version(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.dataset()
        first, second = _freeze(database, owner, dataset_id), _freeze(database, owner, dataset_id)
        assert (first.created, second.created) == (True, False)
        assert first.version.id == second.version.id

    def test_of_what_there_was_before_is_the_latest_again(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.dataset()
        first = _freeze(database, owner, dataset_id).version
        make.ingest(dataset_id, {"new.png": "new"}, {})
        assert _freeze(database, owner, dataset_id).version.number == 2
        with database.session() as session:
            (new,) = (one for one in repository.images(session, owner, dataset_id) if one.source_name == "new.png")
            editing.remove_image(session, owner, dataset_id, new.image, None)
        again = _freeze(database, owner, dataset_id)
        assert (again.created, again.version.id) == (False, first.id)
        with database.reading() as session:
            assert datasets.read_version(session, owner, dataset_id).number == 1
            assert [one.number for one in datasets.list_versions(session, owner, dataset_id)] == [1, 2]

    def test_of_the_same_content_uploaded_in_another_order_has_the_same_digest(
        self, database: Database, owner: str, make: Any
    ) -> None:
        digests = set()
        for names in (("a", "b", "c"), ("c", "a", "b")):
            dataset_id = make.dataset(images=0)
            make.ingest(dataset_id, {f"{n}.png": n for n in names}, {f"{n}.txt": f"an {n}" for n in names})
            digests.add(_freeze(database, owner, dataset_id).version.digest)
        assert len(digests) == 1

    def test_later_uploads_make_a_new_version_and_leave_the_old_one(
        self, database: Database, owner: str, make: Any
    ) -> None:
        dataset_id = make.dataset(images=3)
        first = _freeze(database, owner, dataset_id).version
        make.ingest(dataset_id, {"new.png": "new"}, {"0.txt": "another caption"})
        second = _freeze(database, owner, dataset_id).version
        assert (first.number, second.number) == (1, 2)
        with database.reading() as session:
            before, after = (datasets.version_contents(session, owner, v.id) for v in (first, second))
            assert [v.number for v in datasets.list_versions(session, owner, dataset_id)] == [2, 1]
        assert (len(before), len(after)) == (3, 4)
        assert "caption 0" in {entry.row.caption for entry in before}
        assert "another caption" in {entry.row.caption for entry in after}

    def test_refuses_an_empty_dataset_and_one_that_is_being_read(
        self, database: Database, owner: str, make: Any
    ) -> None:
        codes = []
        dataset_id = make.dataset(images=0)
        for _ in range(2):
            with pytest.raises(PatinaError) as caught:
                _freeze(database, owner, dataset_id)
            codes.append(caught.value.code)
            with database.session() as session:
                datasets.offer_upload(session, owner, dataset_id, "a.png", "uploads/ada/x", 10)
        assert codes == [FailureCode.EMPTY_DATASET, FailureCode.UNFINISHED_INGEST]

    @pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
    def test_refuses_a_share_out_of_range(self, database: Database, owner: str, make: Any, share: float) -> None:
        with pytest.raises(InvalidInput) as caught:
            _freeze(database, owner, make.dataset(), held_out_share=share)
        assert caught.value.errors[0].pointer == "/held_out_share"


class TestReadVersion:
    def test_is_the_latest_unless_a_number_is_given(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.frozen()
        make.ingest(dataset_id, {"new.png": "new"}, {})
        _freeze(database, owner, dataset_id)
        with database.reading() as session:
            assert datasets.read_version(session, owner, dataset_id).number == 2
            assert datasets.read_version(session, owner, dataset_id, 1).number == 1
            with pytest.raises(PatinaError, match=r"no version 3; there are: 2, 1\."):
                datasets.read_version(session, owner, dataset_id, 3)

    def test_says_that_the_dataset_must_be_frozen_first(self, database: Database, owner: str, make: Any) -> None:
        with database.reading() as session, pytest.raises(PatinaError) as caught:
            datasets.read_version(session, owner, make.dataset())
        assert "Freeze it first: `patina datasets freeze set-" in caught.value.hint
