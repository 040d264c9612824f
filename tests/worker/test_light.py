"""Reading uploads with a real database, store and decoding child."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog import jobs
from catalog.blobs import BlobStore, image_key
from catalog.datasets import ingests
from catalog.datasets import service as datasets
from catalog.datasets.models import DatasetFile
from catalog.db import db_now
from catalog.job_requests import hasten
from catalog.jobs import Job
from catalog.sweep import sweep
from contracts.dataset import DatasetStatus
from tests.worker.conftest import OWNER, captions, fates, picture, upload, zipped
from worker import ingest, light
from worker.decode import Decoded, Decoder
from worker.doorbell import Shift
from worker.reading import Reading
from worker.station import Station


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture
def shift() -> Shift:
    return Shift()


def read_all(station: Station, decoder: Decoder, shift: Shift) -> None:
    while light.work(station, decoder, shift):
        pass


def status(station: Station, dataset_id: str) -> DatasetStatus:
    with station.database.reading() as session:
        return datasets.read(session, OWNER, dataset_id).status


class TestFiles:
    def test_pictures_are_stored_once_by_identity_with_their_sidecars(
        self, station: Station, decoder: Decoder, shift: Shift
    ) -> None:
        dataset = upload(station, {"a.png": picture(1), "b.png": picture(2), "b.txt": b" a  bee \n"})
        read_all(station, decoder, shift)
        assert captions(station, dataset) == {"a.png": None, "b.png": "a bee"}
        assert fates(station, dataset)["b.txt"] == ("used", None)
        assert status(station, dataset) is DatasetStatus.READY
        decoded = decoder.decode(picture(1))
        assert isinstance(decoded, Decoded)
        assert station.blobs.get_bytes(image_key(OWNER, decoded.identity)) == decoded.png

    def test_the_same_pixels_in_another_file_are_a_duplicate(
        self, station: Station, decoder: Decoder, shift: Shift
    ) -> None:
        dataset = upload(station, {"a.png": picture(1), "copy.png": picture(1)})
        read_all(station, decoder, shift)
        assert fates(station, dataset)["copy.png"] == ("duplicate", "the same picture as a.png")
        with station.database.reading() as session:
            assert datasets.read(session, OWNER, dataset).images == 1

    def test_metadata_names_pictures(self, station: Station, decoder: Decoder, shift: Shift) -> None:
        lines = "\n".join(json.dumps({"file_name": f"{n}.png", "text": f"number {n}"}) for n in (1, 2, 9))
        dataset = upload(station, {"1.png": picture(1), "2.png": picture(2), "metadata.jsonl": lines.encode()})
        read_all(station, decoder, shift)
        assert captions(station, dataset) == {"1.png": "number 1", "2.png": "number 2"}
        fate, reason = fates(station, dataset)["metadata.jsonl:3"]
        assert fate == "rejected"
        assert reason is not None
        assert "9.png" in reason

    def test_every_bad_file_has_its_reason_and_costs_no_good_one(
        self, station: Station, decoder: Decoder, shift: Shift
    ) -> None:
        dataset = upload(
            station,
            {
                "good.png": picture(1),
                "text.png": b"this is no picture",
                "cut.png": picture(2)[:200],
                "notes.pdf": b"%PDF",
                "orphan.txt": b"a caption for nobody",
                "binary.txt": b"\xff\xfe\x81",
                "not-really.zip": b"PK, he said",
            },
        )
        read_all(station, decoder, shift)
        ledger = fates(station, dataset)
        assert ledger.pop("good.png")[0] == "used"
        assert all(fate == "rejected" and reason for fate, reason in ledger.values()), ledger
        assert "is not a zip archive" in str(ledger["not-really.zip"][1])
        assert "no usable image" in str(ledger["orphan.txt"][1])

    def test_a_caption_that_comes_before_its_picture_waits_for_it(
        self, station: Station, decoder: Decoder, shift: Shift
    ) -> None:
        dataset = upload(station, {"a.txt": b"early"})
        read_all(station, decoder, shift)
        assert fates(station, dataset)["a.txt"][0] == "rejected"
        upload(station, {"a.png": picture(1)})
        read_all(station, decoder, shift)
        assert captions(station, dataset) == {"a.png": "early"}
        assert fates(station, dataset)["a.txt"][0] == "used"

    def test_uploads_are_removed_once_their_fate_is_known(
        self, station: Station, decoder: Decoder, shift: Shift
    ) -> None:
        upload(station, {"a.png": picture(1), "b.zip": zipped({"c.png": picture(2)})})
        read_all(station, decoder, shift)
        uploads = station.settings.home_dir / "blobs" / "uploads"
        assert uploads.is_dir()
        assert [path for path in uploads.rglob("*") if path.is_file()] == []


class TestArchives:
    def test_members_are_files_of_their_own_with_captions_from_inside(
        self, station: Station, decoder: Decoder, shift: Shift
    ) -> None:
        archive = zipped(
            {
                "set/a.png": picture(1),
                "set/a.txt": b"from a sidecar",
                "set/b.png": picture(2),
                "set/metadata.jsonl": b'{"file_name": "b.png", "text": "from metadata"}\n',
                "../../etc/c.png": picture(3),
                "set/readme.md": b"hello",
            }
        )
        dataset = upload(station, {"set.zip": archive})
        read_all(station, decoder, shift)
        assert captions(station, dataset) == {
            "set/a.png": "from a sidecar",
            "set/b.png": "from metadata",
            "etc/c.png": None,
        }
        assert fates(station, dataset)["set.zip"][0] == "used"
        assert fates(station, dataset)["set/readme.md"][0] == "rejected"

    def test_an_empty_archive_is_said(self, station: Station, decoder: Decoder, shift: Shift) -> None:
        dataset = upload(station, {"empty.zip": zipped({})})
        read_all(station, decoder, shift)
        assert fates(station, dataset)["empty.zip"] == ("rejected", "the archive is empty")


class TestAttempts:
    def test_a_crash_in_the_middle_loses_nothing_and_repeats_nothing(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = {f"{n}.png": picture(n) for n in range(6)}
        dataset = upload(station, {"set.zip": zipped(files), "7.png": picture(7)})
        with monkeypatch.context() as patched:
            patched.setattr(ingest, "BATCH_FILES", 2)
            calls = []

            def crash(*arguments: object) -> object:
                calls.append(arguments)
                if len(calls) == 4:
                    raise KeyboardInterrupt
                return real(*arguments)  # type: ignore[arg-type] # passed through

            real = ingest._look_into
            patched.setattr(ingest, "_look_into", crash)
            with pytest.raises(KeyboardInterrupt):
                light.work(station, decoder, shift)
        assert status(station, dataset) is DatasetStatus.INGESTING
        _expire_leases(station)
        read_all(station, decoder, shift)
        ledger = fates(station, dataset)
        assert len(ledger) == 8
        assert {fate for fate, _ in ledger.values()} == {"used"}
        with station.database.reading() as session:
            assert datasets.read(session, OWNER, dataset).images == 7

    def test_a_worker_that_was_given_up_writes_nothing(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"a.png": picture(1)})
        real = ingest._look_into

        def slow(*arguments: object) -> object:
            found = real(*arguments)  # type: ignore[arg-type] # passed through
            _expire_leases(station)
            return found

        monkeypatch.setattr(ingest, "_look_into", slow)
        assert light.work(station, decoder, shift)
        assert fates(station, dataset)["a.png"][0] == "pending"
        monkeypatch.setattr(ingest, "_look_into", real)
        read_all(station, decoder, shift)
        assert fates(station, dataset)["a.png"][0] == "used"

    def test_a_draining_worker_gives_the_job_back(self, station: Station, decoder: Decoder, shift: Shift) -> None:
        dataset = upload(station, {"a.png": picture(1)})
        shift.drain()
        light.work(station, decoder, shift)
        assert fates(station, dataset)["a.png"][0] == "pending"
        with station.database.reading() as session:
            job = session.query(Job).one()
            assert (job.state, job.preemptions, job.failures) == ("queued", 1, 0)

    def test_trouble_is_tried_again_then_given_up_in_the_ledger(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"a.png": picture(1)})

        def broken(*_: object) -> object:
            raise RuntimeError("no room")

        monkeypatch.setattr(ingest, "_look_into", broken)
        for _ in range(jobs.MAX_FAILURES):
            assert light.work(station, decoder, shift)
            assert not light.work(station, decoder, shift), "what it ran into is given time to pass"
            with station.database.session() as session:
                hasten(session, OWNER, jobs.Kind.INGEST, dataset)
        assert not light.work(station, decoder, shift)
        fate, reason = fates(station, dataset)["a.png"]
        assert fate == "rejected"
        assert "no room" not in str(reason), "the reason is for users, the error for the log"

    def test_while_the_store_is_away_no_file_is_given_up(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"a.png": picture(1)})

        def away(*_: object) -> bool:
            raise ConnectionError("no answer")

        with monkeypatch.context() as patched:
            patched.setattr(BlobStore, "exists", away)
            for _ in range(jobs.MAX_FAILURES + 1):
                assert not light.work(station, decoder, shift), "there is no hurry"
        assert fates(station, dataset)["a.png"] == ("pending", None)
        assert light.work(station, decoder, shift)
        assert fates(station, dataset)["a.png"][0] == "used"

    def test_one_file_at_which_it_always_fails_costs_no_other(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {f"{n}.png": picture(n) for n in range(6)})
        real = ingest._look_into

        def broken(reading: Reading, file: DatasetFile) -> object:
            if file.filename == "2.png":
                raise RuntimeError("trouble")
            return real(reading, file)

        monkeypatch.setattr(ingest, "_look_into", broken)
        _attempt(station, decoder, shift, dataset, times=jobs.MAX_FAILURES + 2)
        assert fates(station, dataset).pop("2.png") == ("rejected", ingests.LOST)
        assert [fate for fate, _ in fates(station, dataset).values()].count("used") == 5
        assert status(station, dataset) is DatasetStatus.READY

    def test_one_file_at_which_the_worker_dies_costs_no_other(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {f"{n}.png": picture(n) for n in range(6)})
        real = ingest._look_into

        def deadly(reading: Reading, file: DatasetFile) -> object:
            if file.filename == "2.png":
                raise KeyboardInterrupt
            return real(reading, file)

        monkeypatch.setattr(ingest, "_look_into", deadly)
        for _ in range(jobs.MAX_FAILURES + 1):
            with pytest.raises(KeyboardInterrupt):
                light.work(station, decoder, shift)
            _expire_leases(station)
        read_all(station, decoder, shift)
        assert fates(station, dataset).pop("2.png") == ("rejected", ingests.LOST)
        assert [fate for fate, _ in fates(station, dataset).values()].count("used") == 5

    def test_any_number_of_crashes_is_no_reason_to_give_up_while_it_comes_on(
        self, station: Station, decoder: Decoder, shift: Shift, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {f"{n}.png": picture(n) for n in range(2 * jobs.MAX_FAILURES)})
        real = ingest._look_into
        seen: set[int] = set()

        def crash(reading: Reading, file: DatasetFile) -> object:
            if file.id not in seen:
                seen.add(file.id)
                raise KeyboardInterrupt
            return real(reading, file)

        monkeypatch.setattr(ingest, "_look_into", crash)
        for _ in range(2 * jobs.MAX_FAILURES):
            with pytest.raises(KeyboardInterrupt):
                light.work(station, decoder, shift)
            _expire_leases(station)
        read_all(station, decoder, shift)
        assert {fate for fate, _ in fates(station, dataset).values()} == {"used"}

    def test_two_workers_do_one_job_once(self, station: Station, decoder: Decoder, shift: Shift) -> None:
        dataset = upload(station, {f"{n}.png": picture(n) for n in range(4)})
        threads = [threading.Thread(target=read_all, args=(station, decoder, shift)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {fate for fate, _ in fates(station, dataset).values()} == {"used"}
        with station.database.reading() as session:
            assert session.query(Job).one().fence == 1


def _attempt(station: Station, decoder: Decoder, shift: Shift, dataset: str, times: int) -> None:
    """Work, without the pauses after failures."""
    for _ in range(times):
        light.work(station, decoder, shift)
        with station.database.session() as session:
            hasten(session, OWNER, jobs.Kind.INGEST, dataset)


def _expire_leases(station: Station) -> None:
    with station.database.session() as session:
        session.query(Job).filter(Job.state == "leased").update({"lease_until": db_now() - 1})
    with station.database.session() as session:
        sweep(session)


class TestPath:
    def test_nothing_is_written_outside_the_home(
        self, station: Station, decoder: Decoder, shift: Shift, tmp_path: Path
    ) -> None:
        before = set(tmp_path.iterdir())
        upload(station, {"x.zip": zipped({f"{'../' * depth}escape.png": picture(depth) for depth in range(1, 8)})})
        read_all(station, decoder, shift)
        assert set(tmp_path.iterdir()) == before
        assert list(tmp_path.rglob("*escape*")) == [], "a name from an archive became a path"
