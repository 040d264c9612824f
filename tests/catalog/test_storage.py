"""The collector takes what nothing refers to, and nothing else; and who uses how much."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from catalog import storage
from catalog.blobs import BlobStore, image_key, upload_key
from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage
from catalog.datasets.models import DatasetFile
from catalog.db import Database
from catalog.jobs import Queue
from catalog.uploads import service as uploads
from contracts.dataset import Fate

GRACE_S = 3600.0
OWNER = "ada"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(root: Path) -> BlobStore:
    return BlobStore(str(root))


def age(root: Path) -> None:
    """As if everything had been stored long ago."""
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))


def read_image(database: Database, blobs: BlobStore, make: Any, dataset: str, identity: str) -> str:
    """Upload and read one image; the key it is stored under."""
    with database.session() as session:
        upload = upload_key(OWNER)
        blobs.put_bytes(upload, b"upload")
        datasets.offer_upload(session, OWNER, dataset, "a.png", upload, 6)
    claim = make.claim(Queue.LIGHT)
    key = image_key(OWNER, identity)
    blobs.put_once(key, b"pixels of " + identity[:1].encode())
    with database.session() as session:
        for row in ingest.pending_files(session, claim):
            ingest.record_image(session, claim, row.id, DecodedImage(identity, 8, 8, key))
        ingest.finish(session, claim)
    return key


class TestCollect:
    def test_what_rows_refer_to_stays_however_old_and_the_rest_goes(
        self, database: Database, blobs: BlobStore, root: Path, make: Any
    ) -> None:
        dataset = make.dataset(images=0)
        kept = read_image(database, blobs, make, dataset, "a" * 64)
        piece = uploads.store_piece(blobs, OWNER, 0, b"abc")
        with database.session() as session:
            announced = uploads.Announced(dataset, "b.png", 9, None, "")
            upload = uploads.begin(session, OWNER, announced, 3600).id
        uploads.add_pieces(database, OWNER, upload, [piece], 3600)
        with database.session() as session:
            waiting = upload_key(OWNER)
            blobs.put_bytes(waiting, b"waiting")
            datasets.offer_upload(session, OWNER, dataset, "c.png", waiting, 7)
        lost = [image_key(OWNER, "b" * 64), upload_key(OWNER), uploads.store_piece(blobs, OWNER, 0, b"x").blob_key]
        for key in lost:
            blobs.put_bytes(key, b"lost")
        blobs.put_bytes("elsewhere/x", b"not the collector's")
        age(root)
        done = storage.collect(database, blobs, GRACE_S)
        # And the upload whose image was stored long since.
        assert (done.blobs, done.bytes) == (len(lost) + 1, 4 * len(lost) + 6)
        assert [blobs.exists(key) for key in lost] == [False] * 3
        assert [blobs.exists(key) for key in (kept, piece.blob_key, waiting, "elsewhere/x")] == [True] * 4
        assert storage.collect(database, blobs, GRACE_S).blobs == 0

    def test_a_mask_that_came_before_its_image_is_there_when_the_image_comes(
        self, database: Database, blobs: BlobStore, root: Path, make: Any
    ) -> None:
        dataset, mask = make.dataset(images=0), image_key(OWNER, "e" * 64)
        with database.session() as session:
            datasets.offer_upload(session, OWNER, dataset, "a_mask.png", upload_key(OWNER), 6)
        claim = make.claim(Queue.LIGHT)
        blobs.put_once(mask, b"mask")
        with database.session() as session:
            for row in ingest.pending_files(session, claim):
                ingest.record_mask(session, claim, row.id, DecodedImage("e" * 64, 8, 8, mask))
            ingest.finish(session, claim)
        age(root)
        storage.collect(database, blobs, GRACE_S)
        read_image(database, blobs, make, dataset, "a" * 64)
        with database.session() as session:
            (entry,) = datasets.version_contents(session, OWNER, datasets.freeze(session, OWNER, dataset).version.id)
        assert entry.mask_key == mask
        assert blobs.get_bytes(mask) == b"mask"

    def test_what_was_stored_a_moment_ago_stays_for_the_commit_that_follows(
        self, database: Database, blobs: BlobStore
    ) -> None:
        blobs.put_bytes(image_key(OWNER, "a" * 64), b"pixels")
        assert storage.collect(database, blobs, GRACE_S).blobs == 0

    def test_an_old_blob_that_is_wanted_again_while_it_is_judged_stays(
        self, database: Database, blobs: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = image_key(OWNER, "a" * 64)
        blobs.put_bytes(key, b"pixels")
        age(root)
        judge = storage._referred

        def judged_meanwhile(session: Any) -> Any:
            yield from judge(session)
            blobs.put_once(key, b"pixels")  # an ingest finds the same image, and has not committed yet

        monkeypatch.setattr(storage, "_referred", judged_meanwhile)
        assert storage.collect(database, blobs, GRACE_S).blobs == 0
        assert blobs.get_bytes(key) == b"pixels"

    def test_every_column_that_holds_a_key_is_known_by_its_name(self) -> None:
        named = {f"{column.table.name}.{column.name}" for column in storage.referring_columns()}
        assert {
            "dataset_files.blob_key",
            "dataset_images.blob_key",
            "dataset_images.mask_key",
            "dataset_version_rows.blob_key",
            "dataset_version_rows.mask_key",
            "generation_images.blob_key",
            "run_previews.blob_key",
            "runs.log_key",
            "upload_pieces.blob_key",
            "weights.blob_key",
        } <= named


class TestUsage:
    def test_says_what_each_thing_takes_and_what_is_nobodys(
        self, database: Database, blobs: BlobStore, make: Any
    ) -> None:
        one, two = make.dataset(name="one", images=0), make.dataset(name="two", images=0)
        read_image(database, blobs, make, one, "a" * 64)
        read_image(database, blobs, make, two, "a" * 64)
        read_image(database, blobs, make, two, "b" * 64)
        blobs.put_bytes(image_key(OWNER, "c" * 64), b"nobody's")
        blobs.put_bytes(image_key("eve", "d" * 64), b"another's")
        with database.session() as session:
            session.execute(update(DatasetFile).where(DatasetFile.dataset_id == one).values(fate=Fate.PENDING))
        with database.reading() as session:
            found = {(use.what, use.name): (use.files, use.bytes) for use in storage.usage(session, blobs, OWNER)}
        assert found[("dataset", "one")] == (1, 11)
        assert found[("dataset", "two")] == (2, 22)
        assert found[("uploads to be read", None)] == (1, 6)
        assert found[("nothing refers to", None)] == (3, 8 + 12)
