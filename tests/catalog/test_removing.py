"""Removing a dataset: all of it or nothing, and never what something came of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from catalog import jobs, storage
from catalog.blobs import BlobStore, image_key
from catalog.datasets import editing, ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage
from catalog.db import Base, Database
from catalog.jobs import Job, Queue
from catalog.removing import remove_dataset
from catalog.uploads import service as uploads
from contracts.failures import FailureCode, PatinaError

OWNER = "ada"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def rows_about(database: Database) -> dict[str, int]:
    """How many rows there are in tables that are not jobs."""
    tables = [table for table in Base.metadata.sorted_tables if table.name != Job.__tablename__]
    with database.reading() as session:
        counted = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
    return {name: count for name, count in counted.items() if count}


class TestRemove:
    def test_takes_every_row_and_the_collector_every_blob(
        self, database: Database, blobs: BlobStore, make: Any, tmp_path: Path
    ) -> None:
        dataset, key = make.dataset(name="style", images=0), image_key(OWNER, "a" * 64)
        blobs.put_bytes(key, b"pixels")
        with database.session() as session:
            uploads.offer(session, OWNER, dataset, "set.zip", "uploads/ada/x", 6, "1" * 64)
        claim = make.claim(Queue.LIGHT)
        with database.session() as session:
            (archive,) = ingest.pending_files(session, claim)
            ingest.record_members(session, claim, archive.id, [ingest.Member("a.png", 1, "uploads/ada/x.0")])
            (member,) = ingest.pending_files(session, claim)
            ingest.record_image(session, claim, member.id, DecodedImage("a" * 64, 8, 8, key))
            ingest.finish(session, claim)
        piece = uploads.store_piece(blobs, OWNER, 0, b"abc")
        with database.session() as session:
            editing.write_caption(session, OWNER, dataset, "a" * 64, "mine", None)
            announced = uploads.Announced(dataset, "b.png", 9, None, "")
            upload = uploads.begin(session, OWNER, announced, 3600).id
        uploads.add_pieces(database, OWNER, upload, [piece], 3600)
        with database.session() as session:
            remove_dataset(session, OWNER, "style")
        assert rows_about(database) == {}
        for path in (tmp_path / "blobs").rglob("*"):
            os.utime(path, (1, 1))
        storage.collect(database, blobs, 60)
        assert (blobs.exists(key), blobs.exists(piece.blob_key)) == (False, False)

    def test_stops_whoever_reads_it_and_does_nothing_to_others(self, database: Database, make: Any) -> None:
        kept, dataset = make.dataset(name="kept"), make.dataset(name="style", images=0)
        with database.session() as session:
            row = datasets.offer_upload(session, OWNER, dataset, "a.png", "uploads/ada/x", 6)
        claim = make.claim(Queue.LIGHT)
        with database.session() as session:
            remove_dataset(session, OWNER, dataset)
        with database.session() as session, pytest.raises(jobs.LeaseLost):
            ingest.reject(session, claim, row.id, "late")
        with database.reading() as session:
            assert datasets.read(session, OWNER, kept).images == 3

    def test_refuses_and_names_what_came_of_it(self, database: Database, make: Any) -> None:
        weights = make.weights(name="ours", dataset=make.frozen(name="style"))
        before = rows_about(database)
        with pytest.raises(PatinaError) as refused, database.session() as session:
            remove_dataset(session, OWNER, "style")
        assert refused.value.code is FailureCode.CONFLICT
        assert f"version 1; run {weights.run_id}; weights ours@1 came of it" in refused.value.message
        assert rows_about(database) == before

    def test_is_for_its_owner_alone(self, database: Database, make: Any) -> None:
        make.dataset(name="style")
        with pytest.raises(PatinaError) as refused, database.session() as session:
            remove_dataset(session, "eve", "style")
        assert refused.value.code is FailureCode.NOT_FOUND
