"""Uploads in pieces: what counts, what is offered, and what becomes of the rest."""

from __future__ import annotations

import hashlib
import secrets
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from catalog.blobs import BlobStore
from catalog.datasets import ingests
from catalog.datasets import service as datasets
from catalog.db import Database
from catalog.jobs import Job, JobState
from catalog.uploads import service
from catalog.uploads.models import Upload, UploadPiece
from contracts.failures import FailureCode, PatinaError

KEEP_S = 3600.0
OWNER = "ada"


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """A folder, and a store that is none, as S3 is."""
    return BlobStore((tmp_path / "blobs").as_uri() if request.param == "file" else f"memory://{secrets.token_hex(4)}")


@pytest.fixture
def dataset(database: Database) -> str:
    with database.session() as session:
        return datasets.create(session, OWNER, "style").id


def begun(database: Database, dataset: str, length: int = 6, keep_s: float = KEEP_S, **changes: Any) -> str:
    announced = service.Announced(
        **{"dataset": dataset, "filename": "a.png", "length_bytes": length, "sha256": None, "metadata_header": ""}
        | changes
    )
    with database.session() as session:
        return service.begin(session, OWNER, announced, keep_s).id


def ledger(database: Database, dataset: str) -> list[Any]:
    with database.reading() as session:
        return list(datasets.ledger(session, OWNER, dataset))


def count(database: Database, table: Any) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


class TestComplete:
    def test_the_pieces_become_one_file_of_the_ledger_that_is_read_once(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset, sha256=hashlib.sha256(b"abcdef").hexdigest())
        first, last = service.store_piece(blobs, OWNER, 0, b"abc"), service.store_piece(blobs, OWNER, 3, b"def")
        service.add_pieces(database, OWNER, upload, [first], KEEP_S)
        assert ledger(database, dataset) == []
        service.complete(database, blobs, OWNER, upload, [last], KEEP_S)
        (row,) = ledger(database, dataset)
        assert (row.filename, row.bytes, blobs.get_bytes(row.blob_key)) == ("a.png", 6, b"abcdef")
        assert count(database, Job) == 1
        assert [blobs.exists(piece.blob_key) for piece in (first, last)] == [False, False]

    def test_a_second_end_changes_nothing_and_says_where_the_upload_is(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset)
        service.complete(database, blobs, OWNER, upload, [service.store_piece(blobs, OWNER, 0, b"abcdef")], KEEP_S)
        with pytest.raises(PatinaError) as refused:
            service.complete(database, blobs, OWNER, upload, [service.store_piece(blobs, OWNER, 0, b"abcdef")], KEEP_S)
        assert (refused.value.code, "offset 6" in refused.value.message) == (FailureCode.CONFLICT, True)
        assert len(ledger(database, dataset)) == 1

    def test_of_two_ends_at_once_one_wins(self, database: Database, blobs: BlobStore, dataset: str) -> None:
        upload = begun(database, dataset)
        together = threading.Barrier(2)
        ends: list[str] = []

        def end(content: bytes) -> None:
            piece = service.store_piece(blobs, OWNER, 0, content)
            together.wait(30)
            try:
                service.complete(database, blobs, OWNER, upload, [piece], KEEP_S)
                ends.append("won")
            except PatinaError as error:
                ends.append(error.code)

        threads = [threading.Thread(target=end, args=(content,)) for content in (b"abcdef", b"ghijkl")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(ends) == [FailureCode.CONFLICT, "won"]
        (row,) = ledger(database, dataset)
        assert blobs.get_bytes(row.blob_key) in (b"abcdef", b"ghijkl")

    def test_a_whole_that_is_not_what_was_announced_is_refused_and_forgotten(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset, sha256="0" * 64)
        piece = service.store_piece(blobs, OWNER, 0, b"abcdef")
        with pytest.raises(PatinaError) as refused:
            service.complete(database, blobs, OWNER, upload, [piece], KEEP_S)
        assert refused.value.code is FailureCode.CHECKSUM_MISMATCH
        assert (ledger(database, dataset), count(database, Upload)) == ([], 0)


class TestGivingUp:
    def test_waits_for_bytes_that_are_just_being_counted_in(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset)
        piece = service.store_piece(blobs, OWNER, 0, b"abc")
        failures: list[Exception] = []

        def give_up() -> None:
            try:
                service.terminate(database, blobs, OWNER, upload)
            except SQLAlchemyError as error:
                failures.append(error)

        giving_up = threading.Thread(target=give_up)
        with database.session() as session:
            service._count_in(session, OWNER, upload, [piece], KEEP_S, whole=False)
            giving_up.start()
            _until_it_waits(database, giving_up)
        giving_up.join(60)
        assert (failures, count(database, Upload), count(database, UploadPiece)) == ([], 0, 0)
        assert not blobs.exists(piece.blob_key)


def _until_it_waits(database: Database, thread: threading.Thread) -> None:
    """SQLite lets nobody in meanwhile; Postgres says who waits for a lock."""
    if database.engine.dialect.name != "postgresql":
        return
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while thread.is_alive():
        with database.engine.connect() as connection:
            if connection.scalar(waiting):
                return


class TestAddPieces:
    def test_bytes_count_at_the_offset_only(self, database: Database, blobs: BlobStore, dataset: str) -> None:
        upload = begun(database, dataset)
        service.add_pieces(database, OWNER, upload, [service.store_piece(blobs, OWNER, 0, b"abc")], KEEP_S)
        for start in (0, 2, 4):
            with pytest.raises(PatinaError) as refused:
                service.add_pieces(database, OWNER, upload, [service.Piece(start, 1, "pieces/x")], KEEP_S)
            assert refused.value.code is FailureCode.CONFLICT
        with database.reading() as session:
            assert service.read(session, OWNER, upload).received_bytes == 3

    def test_the_last_bytes_never_count_without_the_file_being_offered(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset)
        with pytest.raises(PatinaError):
            service.add_pieces(database, OWNER, upload, [service.Piece(0, 6, "pieces/x")], KEEP_S)

    def test_crumbs_are_refused(
        self, database: Database, blobs: BlobStore, dataset: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "MAX_PIECES", 2)
        upload = begun(database, dataset)
        for start in (0, 1):
            service.add_pieces(database, OWNER, upload, [service.Piece(start, 1, "pieces/x")], KEEP_S)
        with pytest.raises(PatinaError) as refused:
            service.add_pieces(database, OWNER, upload, [service.Piece(2, 1, "pieces/x")], KEEP_S)
        assert refused.value.code is FailureCode.TOO_LARGE


class TestOwners:
    def test_another_owner_finds_neither_the_upload_nor_what_was_received(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset)
        piece = service.store_piece(blobs, OWNER, 0, b"abcdef")
        with database.session() as session:
            for ask in (
                lambda: service.read(session, "eve", upload),
                lambda: service.unfinished(session, "eve", dataset),
                lambda: service.known(session, "eve", dataset, [("a.png", "0" * 64)]),
            ):
                with pytest.raises(PatinaError) as refused:
                    ask()
                assert refused.value.code is FailureCode.NOT_FOUND
        for write in (
            lambda: service.add_pieces(database, "eve", upload, [service.Piece(0, 1, "pieces/x")], KEEP_S),
            lambda: service.complete(database, blobs, "eve", upload, [piece], KEEP_S),
            lambda: service.terminate(database, blobs, "eve", upload),
        ):
            with pytest.raises(PatinaError) as refused:
                write()
            assert refused.value.code is FailureCode.NOT_FOUND


class TestKnown:
    def test_is_by_name_and_content_and_of_this_dataset_alone(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset)
        service.complete(database, blobs, OWNER, upload, [service.store_piece(blobs, OWNER, 0, b"abcdef")], KEEP_S)
        content = hashlib.sha256(b"abcdef").hexdigest()
        with database.session() as session:
            other = datasets.create(session, OWNER, "other").id
            asked = [("a.png", content), ("b.png", content), ("a.png", "0" * 64)]
            assert service.known(session, OWNER, dataset, asked) == [True, False, False]
            assert service.known(session, OWNER, other, asked) == [False, False, False]

    def test_a_file_that_could_not_be_used_may_be_sent_again(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        upload = begun(database, dataset)
        service.complete(database, blobs, OWNER, upload, [service.store_piece(blobs, OWNER, 0, b"abcdef")], KEEP_S)
        with database.session() as session:
            ingests.after_job(session, OWNER, dataset, JobState.FAILED)
            asked = [("a.png", hashlib.sha256(b"abcdef").hexdigest())]
            assert service.known(session, OWNER, dataset, asked) == [False]


class TestOffer:
    def test_a_file_that_came_to_nothing_is_read_again_in_the_row_it_has(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        keys = [f"uploads/{OWNER}/{turn}" for turn in "ab"]
        with database.session() as session:
            service.offer(session, OWNER, dataset, "a.png", keys[0], 6, "1" * 64)
            ingests.after_job(session, OWNER, dataset, JobState.FAILED)
            service.offer(session, OWNER, dataset, "a.png", keys[1], 6, "1" * 64)
            service.offer(session, OWNER, dataset, "a.png", "uploads/ada/c", 6, "2" * 64)
        told = [(row.fate, row.reason, row.blob_key) for row in ledger(database, dataset)]
        assert told == [("pending", None, keys[1]), ("pending", None, "uploads/ada/c")]
        with database.reading() as session:
            assert service.known(session, OWNER, dataset, [("a.png", "1" * 64)]) == [True]

    def test_one_that_is_read_or_used_is_never_taken_back(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        with database.session() as session:
            for key in ("uploads/ada/a", "uploads/ada/b"):
                service.offer(session, OWNER, dataset, "a.png", key, 6, "1" * 64)
        assert [row.blob_key for row in ledger(database, dataset)] == ["uploads/ada/a", "uploads/ada/b"]


class TestForgetExpired:
    def test_only_what_nobody_goes_on_with_is_removed_with_its_bytes(
        self, database: Database, blobs: BlobStore, dataset: str
    ) -> None:
        stale, fresh = begun(database, dataset), begun(database, dataset)
        kept = service.store_piece(blobs, OWNER, 0, b"abc")
        service.add_pieces(database, OWNER, fresh, [kept], KEEP_S)
        gone = service.store_piece(blobs, OWNER, 0, b"abc")
        service.add_pieces(database, OWNER, stale, [gone], -1.0)
        with database.reading() as session, pytest.raises(PatinaError):
            service.read(session, OWNER, stale)
        assert service.forget_expired(database, blobs) == 1
        assert service.forget_expired(database, blobs) == 0
        assert (blobs.exists(gone.blob_key), blobs.exists(kept.blob_key)) == (False, True)
        assert (count(database, Upload), count(database, UploadPiece)) == (1, 1)
