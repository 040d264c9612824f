"""Bounds of reading uploads: images a dataset may hold, and a disk without room, which loses nothing."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.blobs import BlobStore, upload_key
from catalog.datasets import service as datasets
from catalog.jobs import Job
from catalog.uploads import service as uploads
from contracts.dataset import DatasetStatus
from tests.worker.conftest import OWNER, fates, picture, upload, zipped
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.station import Station

NO_DISK = 1 << 60


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture
def read(decoder: Decoder) -> Callable[[Station], None]:
    """Has a worker read until it finds nothing it could do."""

    def reading(station: Station) -> None:
        while light.work(station, decoder, Shift()):
            pass

    return reading


def within(station: Station, **limits: int) -> Station:
    """The same place with other limits."""
    return replace(station, settings=station.settings.model_copy(update=limits))


def stored(station: Station, prefix: str) -> int:
    return sum(1 for _ in station.blobs.listed(prefix))


def table(count: int) -> bytes:
    stream = io.BytesIO()
    rows = [{"image": {"bytes": picture(n), "path": f"{n}.png"}, "text": f"number {n}"} for n in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


PACKED: dict[str, bytes] = {
    "set.zip": zipped({f"{n}.png": picture(n) for n in range(4)}),
    "set.parquet": table(4),
}


class TestImages:
    @pytest.mark.parametrize("name", PACKED)
    def test_that_come_out_of_a_file_count_too(self, station: Station, read: Any, name: str) -> None:
        limited = within(station, max_dataset_images=3)
        dataset = upload(station, {"first.png": picture(9), name: PACKED[name]})
        read(limited)
        pictures = {file: fate for file, fate in fates(station, dataset).items() if file.endswith(".png")}
        assert sorted(fate for fate, _ in pictures.values()) == ["rejected", "rejected", "used", "used", "used"]
        reasons = [str(reason) for fate, reason in pictures.values() if fate == "rejected"]
        assert all("PATINA_MAX_DATASET_IMAGES" in reason and "(3)" in reason for reason in reasons)
        assert stored(station, "images") <= 5

    def test_one_the_dataset_has_is_a_duplicate_however_full_it_is(self, station: Station, read: Any) -> None:
        limited = within(station, max_dataset_images=1)
        dataset = upload(station, {"a.png": picture(1)})
        read(limited)
        upload(station, {"again.png": picture(1)})
        read(limited)
        assert fates(station, dataset)["again.png"][0] == "duplicate"

    def test_a_file_that_held_too_many_may_be_sent_again_when_there_is_more_room(
        self, station: Station, read: Any
    ) -> None:
        data, key = PACKED["set.zip"], upload_key(OWNER)
        content = hashlib.sha256(data).hexdigest()
        station.blobs.put_bytes(key, data)
        with station.database.session() as session:
            dataset = datasets.create(session, OWNER, "pictures").id
            uploads.offer(session, OWNER, dataset, "set.zip", key, len(data), content)
        read(within(station, max_dataset_images=3))
        with station.database.reading() as session:
            assert uploads.known(session, OWNER, dataset, [("set.zip", content)]) == [False]


class TestATable:
    def test_of_which_a_mask_is_too_large_says_so_and_gives_the_picture(self, station: Station, read: Any) -> None:
        stream = io.BytesIO()
        row = {"image": {"bytes": picture(1)}, "mask": {"bytes": bytes(2 * 1024**2)}}
        pq.write_table(pa.Table.from_pylist([row]), stream)
        dataset = upload(station, {"set.parquet": stream.getvalue()})
        read(within(station, archive_entry_bytes=1024**2))
        told = fates(station, dataset)
        assert told["set.parquet:1/image_mask.png"] == ("rejected", "larger than 1 MB")
        assert told["set.parquet:1/image"][0] == "used"


class TestADiskWithoutRoom:
    @pytest.mark.parametrize("name", [*PACKED, "9.png"])
    def test_has_files_wait_with_the_reason_and_reads_them_when_there_is_room(
        self, station: Station, read: Any, name: str
    ) -> None:
        dataset = upload(station, {"words.txt": b"words", name: PACKED.get(name, picture(9))})
        read(within(station, disk_reserve_bytes=NO_DISK))
        fate, reason = fates(station, dataset)[name]
        assert (fate, "PATINA_DISK_RESERVE_BYTES" in str(reason)) == ("pending", True)
        with station.database.reading() as session:
            assert datasets.read(session, OWNER, dataset).status is DatasetStatus.INGESTING
            job = session.query(Job).one()
            assert (job.state, job.failures) == ("queued", 0)
        read(station)
        assert fates(station, dataset)[name][0] == "used"
        assert "waits" not in str(fates(station, dataset)[name][1])

    @pytest.mark.parametrize("name", ["set.parquet", "metadata.parquet"])
    def test_has_a_parquet_of_a_store_elsewhere_wait_before_it_is_copied_here(
        self, station: Station, read: Any, name: str
    ) -> None:
        elsewhere = replace(station, blobs=BlobStore("memory://elsewhere"))
        dataset = upload(elsewhere, {name: PACKED["set.parquet"]})
        read(within(elsewhere, disk_reserve_bytes=NO_DISK))
        fate, reason = fates(station, dataset)[name]
        assert (fate, "PATINA_DISK_RESERVE_BYTES" in str(reason)) == ("pending", True)
        read(elsewhere)
        assert fates(station, dataset)[name][0] != "pending"

    def test_keeps_nothing_of_half_an_archive(
        self, station: Station, read: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"set.zip": PACKED["set.zip"]})
        put, written = station.blobs.put_bytes, []

        def full_at_the_third(key: str, data: bytes) -> None:
            written.append(key)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            put(key, data)

        with monkeypatch.context() as patched:
            patched.setattr(station.blobs, "put_bytes", full_at_the_third)
            read(station)
        assert fates(station, dataset)["set.zip"][0] == "pending"
        assert stored(station, "uploads") == 1
        read(station)
        assert [fate for fate, _ in fates(station, dataset).values()] == ["used"] * 5

    def test_lets_others_come_first(self, station: Station, read: Any, decoder: Decoder) -> None:
        large = upload(station, {"set.zip": PACKED["set.zip"]}, "large")
        assert not light.work(within(station, disk_reserve_bytes=NO_DISK), decoder, Shift())
        small = upload(station, {"a.txt": b"words"}, "small")
        assert light.work(station, decoder, Shift())
        assert (fates(station, small)["a.txt"][0], fates(station, large)["set.zip"][0]) == ("rejected", "pending")
