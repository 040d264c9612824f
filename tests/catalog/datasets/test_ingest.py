"""Reading uploads: every file meets one fate, and reading again changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage, Member, MetadataLine
from catalog.datasets.models import DatasetFile, DatasetImage
from catalog.datasets.settling import NO_CAPTION, settle
from catalog.db import Database
from catalog.jobs import Claim, LeaseLost, Queue
from catalog.removing import remove_image
from catalog.sweep import sweep
from catalog.uploads import service as uploads
from contracts.captions import MAX_CAPTION_CHARACTERS
from contracts.dataset import DatasetStatus, Fate

Decode = Callable[..., DecodedImage]


@pytest.fixture
def dataset_id(make: Any) -> str:
    return str(make.dataset(images=0))


@pytest.fixture
def offer(database: Database, owner: str, dataset_id: str, make: Any) -> Callable[..., tuple[Claim, list[int]]]:
    """Uploads files and claims the job that reads them."""

    def upload(*names: str) -> tuple[Claim, list[int]]:
        with database.session() as session:
            rows = [datasets.offer_upload(session, owner, dataset_id, name, "uploads/ada/x", 10) for name in names]
        return make.claim(Queue.LIGHT), [row.id for row in rows]

    return upload


def _ledger(database: Database, owner: str, dataset_id: str) -> dict[str, tuple[str, str | None]]:
    with database.reading() as session:
        return {row.filename: (row.fate, row.reason) for row in datasets.ledger(session, owner, dataset_id)}


def _captions(database: Database) -> dict[str, str | None]:
    with database.reading() as session:
        return {image.source_name: image.caption for image in session.scalars(select(DatasetImage))}


class TestRecordImage:
    def test_uses_a_picture_once(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode
    ) -> None:
        claim, (first, second) = offer("a.png", "copy.png")
        with database.session() as session:
            ingest.record_image(session, claim, first, decoded("cat"))
            ingest.record_image(session, claim, second, decoded("cat"))
            ingest.finish(session, claim)
        assert _ledger(database, owner, dataset_id) == {
            "a.png": (Fate.USED, NO_CAPTION),
            "copy.png": (Fate.DUPLICATE, "the same picture as a.png"),
        }
        with database.reading() as session:
            assert datasets.read(session, owner, dataset_id).images == 1

    def test_that_was_removed_comes_again_with_its_alpha_channel(
        self, database: Database, owner: str, dataset_id: str, decoded: Decode, make: Any
    ) -> None:
        alpha = decoded("alpha")
        picture = replace(decoded("cat"), alpha=alpha.identity, alpha_key=alpha.blob_key)

        def offered() -> None:
            with database.session() as session:
                row = uploads.offer(session, owner, dataset_id, "cat.png", "uploads/ada/x", 10, "1" * 64)
            claim = make.claim(Queue.LIGHT)
            with database.session() as session:
                ingest.pending_files(session, claim)
                ingest.record_image(session, claim, row.id, picture)
                ingest.finish(session, claim)

        offered()
        before = _ledger(database, owner, dataset_id)
        assert set(before) == {"cat.png", "cat.png:alpha"}
        with database.session() as session:
            remove_image(session, owner, dataset_id, picture.identity)
        offered()
        assert _ledger(database, owner, dataset_id) == before
        with database.reading() as session:
            (image,) = session.scalars(select(DatasetImage))
            assert (image.mask, image.mask_key) == (alpha.identity, alpha.blob_key)
            assert [row.ingest for row in datasets.ledger(session, owner, dataset_id)] == [2, 2]


class TestCaptions:
    def test_may_come_before_or_long_after_their_image(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode
    ) -> None:
        claim, (early,) = offer("cat.txt")
        with database.session() as session:
            ingest.record_caption(session, claim, early, "a cat")
            ingest.finish(session, claim)
        assert _ledger(database, owner, dataset_id)["cat.txt"][0] == Fate.REJECTED
        claim, (cat, dog) = offer("cat.png", "dog.png")
        with database.session() as session:
            ingest.record_image(session, claim, cat, decoded("cat"))
            ingest.record_image(session, claim, dog, decoded("dog"))
            ingest.finish(session, claim)
        assert _captions(database) == {"cat.png": "a cat", "dog.png": None}
        assert _ledger(database, owner, dataset_id)["cat.txt"] == (Fate.USED, None)
        claim, (late,) = offer("dog.txt")
        with database.session() as session:
            ingest.record_caption(session, claim, late, "  a\tdog ")
            ingest.finish(session, claim)
        assert _captions(database) == {"cat.png": "a cat", "dog.png": "a dog"}

    def test_the_ledger_says_where_an_image_got_its_caption(self, database: Database, owner: str, make: Any) -> None:
        dataset_id = make.dataset(images=1)
        with database.reading() as session:
            image, caption = datasets.ledger(session, owner, dataset_id)
        assert (image.caption, image.caption_source, image.reason) == ("caption 0", "0.txt", None)
        assert (caption.kind, caption.image) == ("caption", image.image)

    @pytest.mark.parametrize(
        ("text", "reason"), [(" \n\t", "empty"), ("x" * (MAX_CAPTION_CHARACTERS + 1), "longer than")]
    )
    def test_that_cannot_be_used_say_so(
        self, database: Database, owner: str, dataset_id: str, offer: Any, text: str, reason: str
    ) -> None:
        claim, (file_id,) = offer("cat.txt")
        with database.session() as session:
            ingest.record_caption(session, claim, file_id, text)
            ingest.finish(session, claim)
        fate, why = _ledger(database, owner, dataset_id)["cat.txt"]
        assert fate == Fate.REJECTED
        assert reason in (why or "")


class TestMetadata:
    def test_each_line_is_a_row_of_the_ledger(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode
    ) -> None:
        claim, (image, metadata) = offer("train/cat.png", "train/metadata.jsonl")
        lines = [
            MetadataLine(1, "cat.png", "a cat"),
            MetadataLine(2, "missing.png", "nothing"),
            MetadataLine(3, "", None, "not JSON"),
        ]
        with database.session() as session:
            ingest.record_image(session, claim, image, decoded("cat"))
            ingest.record_metadata(session, claim, metadata, lines)
            ingest.finish(session, claim)
        assert _captions(database) == {"train/cat.png": "a cat"}
        assert _ledger(database, owner, dataset_id) == {
            "train/cat.png": (Fate.USED, None),
            "train/metadata.jsonl": (Fate.USED, None),
            "train/metadata.jsonl:1": (Fate.USED, None),
            "train/metadata.jsonl:2": (Fate.REJECTED, "there is no usable image named train/missing.png"),
            "train/metadata.jsonl:3": (Fate.REJECTED, "not JSON"),
        }


class TestArchives:
    def test_members_become_rows_that_are_read_in_the_same_pass(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode
    ) -> None:
        claim, (archive, loose) = offer("all.zip", "cat.txt")
        members = [
            Member("cat.png", 100, "uploads/ada/1"),
            Member("metadata.jsonl", 20, "uploads/ada/2"),
            Member("../evil.png", 30, None, "its name leads out of the archive"),
        ]
        with database.session() as session:
            ingest.record_members(session, claim, archive, members)
            ingest.record_caption(session, claim, loose, "a loose caption")
        with database.session() as session:
            image, metadata = ingest.pending_files(session, claim)
            assert [image.kind, metadata.kind] == ["image", "metadata"]
            ingest.record_image(session, claim, image.id, decoded("cat"))
            ingest.record_metadata(session, claim, metadata.id, [MetadataLine(1, "cat.png", "a packed caption")])
            assert ingest.pending_files(session, claim) == []
            ingest.finish(session, claim)
        assert _captions(database) == {"cat.png": "a packed caption"}
        ledger = _ledger(database, owner, dataset_id)
        assert ledger["../evil.png"] == (Fate.REJECTED, "its name leads out of the archive")
        assert ledger["cat.txt"][0] == Fate.REJECTED, "a caption outside the archive names nothing inside it"


class TestAgain:
    def test_reading_everything_twice_gives_every_row_once(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode, make: Any
    ) -> None:
        claim, ids = offer("all.zip", "cat.png", "cat.txt", "metadata.jsonl", "notes.pdf")

        def read_all(claim: Claim) -> None:
            with database.session() as session:
                ingest.record_members(session, claim, ids[0], [Member("dog.png", 5, None, "cannot be opened")])
                ingest.record_image(session, claim, ids[1], decoded("cat"))
                ingest.record_caption(session, claim, ids[2], "a cat")
                ingest.record_metadata(session, claim, ids[3], [MetadataLine(1, "cat.png", "a red cat")])
                ingest.reject(session, claim, ids[4], "neither an image nor a caption")

        read_all(claim)
        read_all(claim)
        before = _ledger(database, owner, dataset_id)
        make.expire(claim)
        with database.session() as session:
            sweep(session)
        again = make.claim(Queue.LIGHT)
        assert again.fence == claim.fence + 1
        read_all(again)
        with database.session() as session:
            assert ingest.pending_files(session, again) == []
            ingest.finish(session, again)
            settle(session, owner, dataset_id)
        with database.reading() as session:
            assert len(session.scalars(select(DatasetFile)).all()) == len(before) == 7
            assert len(session.scalars(select(DatasetImage)).all()) == 1
        assert _captions(database) == {"cat.png": "a red cat"}

    def test_a_late_reader_writes_nothing(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode, make: Any
    ) -> None:
        late, (file_id,) = offer("cat.png")
        make.expire(late)
        with database.session() as session:
            sweep(session)
        steps: list[Callable[[Any], object]] = [
            lambda session: ingest.pending_files(session, late),
            lambda session: ingest.record_image(session, late, file_id, decoded("cat")),
            lambda session: ingest.record_caption(session, late, file_id, "x"),
            lambda session: ingest.record_metadata(session, late, file_id, []),
            lambda session: ingest.record_members(session, late, file_id, []),
            lambda session: ingest.reject(session, late, file_id, "x"),
            lambda session: ingest.finish(session, late),
        ]
        for step in steps:
            with database.session() as session, pytest.raises(LeaseLost):
                step(session)
        assert _ledger(database, owner, dataset_id) == {"cat.png": (Fate.PENDING, None)}


class TestFinish:
    def test_only_then_is_the_dataset_ready(
        self, database: Database, owner: str, dataset_id: str, offer: Any, decoded: Decode
    ) -> None:
        claim, (file_id,) = offer("cat.png")
        seen = []
        with database.session() as session:
            seen.append(datasets.read(session, owner, dataset_id).status)
            ingest.record_image(session, claim, file_id, decoded("cat"))
            seen.append(datasets.read(session, owner, dataset_id).status)
            ingest.finish(session, claim)
            seen.append(datasets.read(session, owner, dataset_id).status)
        assert seen == [DatasetStatus.INGESTING, DatasetStatus.INGESTING, DatasetStatus.READY]
