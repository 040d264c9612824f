"""What the ledger says when a pass ends: concepts, masks and notes reach their images and the frozen version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event

from catalog.datasets import editing, ingest
from catalog.datasets import service as datasets
from catalog.datasets.captions import WITHOUT_CAPTION
from catalog.datasets.ingest import DecodedImage, Member, MetadataLine
from catalog.datasets.settling import NO_CAPTION, settle
from catalog.db import Database
from catalog.jobs import Claim, Queue
from contracts.dataset import Fate, Split, VersionRow
from contracts.layouts import FileKind

Decode = Callable[..., DecodedImage]


class Pass:
    """One pass over uploads: offered, read, ended."""

    def __init__(self, database: Database, owner: str, make: Any) -> None:
        self.database, self.owner, self.make = database, owner, make
        self.dataset_id = str(make.dataset(images=0))
        self.claim: Claim | None = None

    def over(self, record: dict[str, Callable[[Any, Claim, int], None]]) -> None:
        with self.database.session() as session:
            rows = [datasets.offer_upload(session, self.owner, self.dataset_id, name, "u/x", 9) for name in record]
        claim = self.make.claim(Queue.LIGHT)
        with self.database.session() as session:
            for row, step in zip(rows, record.values(), strict=True):
                step(session, claim, row.id)
            ingest.finish(session, claim)

    def ledger(self) -> dict[str, Any]:
        with self.database.reading() as session:
            return {row.filename: row for row in datasets.ledger(session, self.owner, self.dataset_id)}

    def frozen(self) -> dict[str, VersionRow]:
        with self.database.session() as session:
            version = datasets.freeze(session, self.owner, self.dataset_id).version
            contents = datasets.version_contents(session, self.owner, version.id)
            return {entry.row.source_name: entry.row for entry in contents}


@pytest.fixture
def one_pass(database: Database, owner: str, make: Any) -> Iterator[Pass]:
    return Pass(database, owner, make)


def _image(picture: DecodedImage) -> Callable[[Any, Claim, int], None]:
    return lambda session, claim, file_id: ingest.record_image(session, claim, file_id, picture)


def _mask(picture: DecodedImage) -> Callable[[Any, Claim, int], None]:
    return lambda session, claim, file_id: ingest.record_mask(session, claim, file_id, picture)


def _caption(text: str) -> Callable[[Any, Claim, int], None]:
    return lambda session, claim, file_id: ingest.record_caption(session, claim, file_id, text)


def _note_statement(written: list[str], _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    written.append(statement)


class TestKohyaFolders:
    def test_repeats_and_class_words_reach_the_version_and_stand_in_for_a_missing_caption(
        self, one_pass: Pass, decoded: Decode
    ) -> None:
        one_pass.over(
            {
                "img/10_sks dog/1.png": _image(decoded("one")),
                "img/10_sks dog/1.txt": _caption("a dog in the snow"),
                "img/10_sks dog/2.png": _image(decoded("two")),
                "img/3.png": _image(decoded("three")),
                "img/3.txt": _caption("three"),
            }
        )
        rows = one_pass.frozen()
        told = {name: (row.caption, row.concept, row.repeats) for name, row in rows.items()}
        assert told == {
            "img/10_sks dog/1.png": ("a dog in the snow", "sks dog", 10),
            "img/10_sks dog/2.png": ("sks dog", "sks dog", 10),
            "img/3.png": ("three", None, 1),
        }
        row = one_pass.ledger()["img/10_sks dog/2.png"]
        assert row.caption_source == "10_sks dog/"
        assert "10x an epoch as 'sks dog'" in row.reason

    def test_metadata_has_the_last_word(self, one_pass: Pass, decoded: Decode) -> None:
        line = MetadataLine(1, "10_sks dog/1.png", "a dog", None, "  a  dog ", 3)
        one_pass.over(
            {
                "10_sks dog/1.png": _image(decoded("one")),
                "metadata.jsonl": lambda s, c, i: ingest.record_metadata(s, c, i, [line], "captions from 'text'"),
            }
        )
        (row,) = one_pass.frozen().values()
        assert (row.caption, row.concept, row.repeats) == ("a dog", "a dog", 3)
        assert one_pass.ledger()["metadata.jsonl"].reason == "captions from 'text'"

    def test_a_picture_in_two_of_them_counts_as_the_first_says_and_the_second_is_told(
        self, one_pass: Pass, decoded: Decode
    ) -> None:
        one_pass.over({"10_sks dog/1.png": _image(decoded("one")), "2_cat/1.png": _image(decoded("one"))})
        (row,) = one_pass.frozen().values()
        assert (row.concept, row.repeats) == ("sks dog", 10)
        told = one_pass.ledger()["2_cat/1.png"]
        assert told.fate == Fate.DUPLICATE
        assert told.reason == (
            "the same picture as 10_sks dog/1.png, which counts 10x an epoch as 'sks dog', not 2x as 'cat'"
        )

    def test_words_of_a_folder_are_a_caption_like_others(self, one_pass: Pass, decoded: Decode) -> None:
        one_pass.over({"2_a <|endoftext|>/1.png": _image(decoded("one"))})
        (row,) = one_pass.frozen().values()
        assert (row.caption, row.concept) == ("a < |endoftext| >", "a < |endoftext| >")


class TestMetadata:
    def test_a_caption_that_comes_later_takes_no_concept_and_split_away(self, one_pass: Pass, decoded: Decode) -> None:
        line = MetadataLine(1, "1.png", "a dog", None, "dog", 3, Split.HELD_OUT)
        files = {"1.png": _image(decoded("one")), "2.png": _image(decoded("two")), "2.txt": _caption("two")}
        one_pass.over(files | {"metadata.jsonl": lambda s, c, i: ingest.record_metadata(s, c, i, [line])})
        one_pass.over({"1.txt": _caption("a dog in the snow")})
        row = one_pass.frozen()["1.png"]
        assert (row.caption, row.concept, row.repeats, row.split) == ("a dog in the snow", "dog", 3, Split.HELD_OUT)

    def test_a_line_without_caption_may_tell_something_else_and_replaces_no_caption(
        self, one_pass: Pass, decoded: Decode
    ) -> None:
        lines = [MetadataLine(1, "1.png", "", None, None, 5), MetadataLine(2, "2.png", "")]
        files = {f"{n}.png": _image(decoded(str(n))) for n in (1, 2, 3)}
        files |= {"1.txt": _caption("one"), "3.txt": _caption("three")}
        one_pass.over(files | {"metadata.jsonl": lambda s, c, i: ingest.record_metadata(s, c, i, lines)})
        rows = one_pass.frozen()
        assert (rows["1.png"].caption, rows["1.png"].repeats) == ("one", 5)
        ledger = one_pass.ledger()
        fates = [(ledger[name].fate, ledger[name].reason) for name in ("metadata.jsonl:1", "metadata.jsonl:2")]
        assert fates == [(Fate.USED, WITHOUT_CAPTION), (Fate.REJECTED, "the caption is empty")]

    def test_splits_alone_offer_no_captions_that_could_be_missed(self, one_pass: Pass, decoded: Decode) -> None:
        splits = {1: Split.TRAIN, 2: Split.HELD_OUT}
        lines = [MetadataLine(n, f"{n}.png", "", split=split) for n, split in splits.items()]
        files = {f"{n}.png": _image(decoded(str(n))) for n in (1, 2)}
        one_pass.over(files | {"metadata.jsonl": lambda s, c, i: ingest.record_metadata(s, c, i, lines)})
        assert [row.split for row in one_pass.frozen().values()].count(Split.TRAIN) == 1

    def test_a_persons_split_stays_whatever_is_uploaded_later(
        self, one_pass: Pass, decoded: Decode, database: Database, owner: str
    ) -> None:
        one_pass.over({"1.png": _image(decoded("one")), "2.png": _image(decoded("two"))})
        with database.session() as session:
            image = decoded("one").identity
            editing.mark_image(session, owner, one_pass.dataset_id, image, Split.TRAIN, None)
        lines = [MetadataLine(n, f"{n}.png", "x", split=Split.HELD_OUT) for n in (1, 2)]
        one_pass.over({"metadata.jsonl": lambda s, c, i: ingest.record_metadata(s, c, i, lines)})
        assert {name: row.split for name, row in one_pass.frozen().items()} == {
            "1.png": Split.TRAIN,
            "2.png": Split.HELD_OUT,
        }


class TestMasks:
    def test_a_mask_may_come_first_and_is_frozen_with_its_image(self, one_pass: Pass, decoded: Decode) -> None:
        one_pass.over({"cat_mask.png": _mask(decoded("mask"))})
        assert one_pass.ledger()["cat_mask.png"].fate == Fate.REJECTED
        one_pass.over({"cat.png": _image(decoded("cat")), "dog.png": _image(decoded("dog"))})
        assert one_pass.ledger()["cat_mask.png"].fate == Fate.USED
        rows = one_pass.frozen()
        assert rows["cat.png"].mask == decoded("mask").identity
        assert rows["dog.png"].mask is None


class TestTables:
    def test_a_row_is_a_picture_with_its_caption_and_a_mask_of_its_own(
        self, one_pass: Pass, decoded: Decode, database: Database
    ) -> None:
        members = [
            Member("t.parquet:1/a", 9, "u/1", None, FileKind.IMAGE, "first", "dog", 2),
            Member("t.parquet:1/a_mask", 9, "u/2", None, FileKind.MASK),
            Member("t.parquet:2/a", 9, "u/3", None, FileKind.IMAGE, "second"),
            Member("t.parquet:3", 0, None, "the row holds no image"),
        ]

        def read(session: Any, claim: Claim, file_id: int) -> None:
            ingest.record_members(session, claim, file_id, members)
            first, mask, second = ingest.pending_files(session, claim)
            ingest.record_image(session, claim, first.id, decoded("one"))
            ingest.record_mask(session, claim, mask.id, decoded("mask"))
            ingest.record_image(session, claim, second.id, decoded("two"))

        one_pass.over({"t.parquet": read})
        rows = one_pass.frozen()
        assert {name: (row.caption, row.concept, row.repeats) for name, row in rows.items()} == {
            "t.parquet:1/a": ("first", "dog", 2),
            "t.parquet:2/a": ("second", None, 1),
        }
        assert rows["t.parquet:1/a"].mask == decoded("mask").identity
        assert rows["t.parquet:2/a"].mask is None
        assert one_pass.ledger()["t.parquet:3"].fate == Fate.REJECTED


class TestNotes:
    def test_what_was_done_to_a_picture_stays_told(self, one_pass: Pass, decoded: Decode) -> None:
        plain = decoded("cat")
        noted = DecodedImage(plain.identity, plain.width, plain.height, plain.blob_key, "downscaled from 9000x6000")
        one_pass.over({"cat.png": _image(noted)})
        assert one_pass.ledger()["cat.png"].reason == f"downscaled from 9000x6000; {NO_CAPTION}"
        one_pass.over({"cat.txt": _caption("a cat")})
        assert one_pass.ledger()["cat.png"].reason == "downscaled from 9000x6000"

    def test_a_columns_name_may_hold_what_no_database_takes_for_text(self, one_pass: Pass) -> None:
        bad, note = MetadataLine(1, "1.png", None, "the line has no 'a\ud800\0b'"), "captions from 'a\ud800\0b'"
        refused = [Member("x.png", 0, None, "no 'a\ud800\0b'")]
        one_pass.over(
            {
                "metadata.jsonl": lambda s, c, i: ingest.record_metadata(s, c, i, [bad], note),
                "t.parquet": lambda s, c, i: ingest.record_members(s, c, i, refused, note),
                "u.parquet": lambda s, c, i: ingest.reject(s, c, i, note),
            }
        )
        told = {name: row.reason for name, row in one_pass.ledger().items()}
        assert told == {
            "metadata.jsonl": "captions from 'ab'",
            "metadata.jsonl:1": "the line has no 'ab'",
            "t.parquet": "captions from 'ab'",
            "x.png": "no 'ab'",
            "u.parquet": "captions from 'ab'",
        }


class TestWriting:
    def test_of_what_is_settled_already_touches_no_file_and_no_image(
        self, one_pass: Pass, database: Database, owner: str, decoded: Decode
    ) -> None:
        one_pass.over({"a.png": _image(decoded("a")), "a.txt": _caption("a"), "b.png": _image(decoded("b"))})
        with database.session() as session:
            editing.remove_image(session, owner, one_pass.dataset_id, decoded("a").identity, None)
        written: list[str] = []
        note = partial(_note_statement, written)
        event.listen(database.engine, "before_cursor_execute", note)
        try:
            with database.session() as session:
                settle(session, owner, one_pass.dataset_id)
        finally:
            event.remove(database.engine, "before_cursor_execute", note)
        assert [line.split()[1] for line in written if line.startswith("UPDATE")] == ["datasets"]

    def test_is_seen_in_rows_that_were_loaded_before(
        self, one_pass: Pass, database: Database, owner: str, decoded: Decode
    ) -> None:
        one_pass.over({"a.png": _image(decoded("a"))})
        with database.session() as session:
            (row,) = datasets.ledger(session, owner, one_pass.dataset_id)
            caption = datasets.offer_upload(session, owner, one_pass.dataset_id, "a.txt", "u/x", 9)
            caption.target, caption.caption, caption.fate = "a", "a cat", Fate.USED
            settle(session, owner, one_pass.dataset_id)
            assert (row.caption, row.reason, caption.image) == ("a cat", None, decoded("a").identity)


class TestRemoval:
    def test_changes_what_settling_everything_anew_would_have_changed(
        self, one_pass: Pass, database: Database, owner: str, decoded: Decode
    ) -> None:
        looks = {"a": 0b000, "b": 0b001, "c": 0b111, "d": 0b111 << 60, "e": 0b110}
        pictures: dict[str, Any] = {
            f"{name}.png": _image(replace(decoded(name), likeness=f"{bits:032x}")) for name, bits in looks.items()
        }
        words: dict[str, Any] = {
            f"{name}.txt": lambda session, claim, file_id: ingest.record_caption(session, claim, file_id, "words")
            for name in looks
        }
        one_pass.over({**pictures, "again.png": _image(decoded("a")), "a_mask.png": _mask(decoded("m")), **words})

        def told() -> tuple[Any, Any]:
            with database.reading() as session:
                files = datasets.ledger(session, owner, one_pass.dataset_id)
                images = [
                    one
                    for removed in (False, True)
                    for one in editing.list_images(session, owner, one_pass.dataset_id, removed=removed).items
                ]
                return (
                    [(row.filename, row.fate, row.reason, row.image, row.caption) for row in files],
                    [(one.source_name, one.near_image, one.caption, one.mask, one.removed_at) for one in images],
                )

        for name in ("b", "a", "d"):
            before = told()
            with database.session() as session:
                editing.remove_image(session, owner, one_pass.dataset_id, decoded(name).identity, None)
            after = told()
            with database.session() as session:
                settle(session, owner, one_pass.dataset_id)
            assert after == told() != before
