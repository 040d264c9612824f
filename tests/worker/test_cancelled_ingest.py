"""A reading that is followed and cancelled: the real light worker, database and store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from catalog.datasets import ingests, progress
from catalog.datasets import service as datasets
from catalog.datasets.ingests import IngestView
from catalog.db import db_now
from catalog.jobs import Job
from catalog.sweep import sweep
from catalog.uploads import service as uploads
from contracts.dataset import Fate
from contracts.ingest import IngestPhase, IngestStatus
from tests.worker.conftest import OWNER, captions, fates, picture, upload, zipped
from worker import archives, ingest, light, reading
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.station import Station

PICTURES = {f"{n}.png": picture(n) for n in range(6)}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(autouse=True)
def _told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is said, and every file is a batch of its own."""
    monkeypatch.setattr(reading, "TELL_EVERY_S", 0.0)
    monkeypatch.setattr(ingest, "BATCH_FILES", 1)


def seen(station: Station, dataset: str) -> IngestView:
    with station.database.reading() as session:
        return ingests.read(session, OWNER, dataset)


def cancel(station: Station, dataset: str) -> IngestView:
    with station.database.session() as session:
        return ingests.cancel(session, OWNER, dataset).ingest


def read_all(station: Station, decoder: Decoder) -> None:
    while light.work(station, decoder, Shift()):
        pass


def after(monkeypatch: pytest.MonkeyPatch, files: int, act: Callable[[], object]) -> None:
    """Do something when the worker looks into the file after so many."""
    looked = itertools.count()
    real = ingest._look_into

    def look(*arguments: object) -> object:
        if next(looked) == files:
            act()
        return real(*arguments)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(ingest, "_look_into", look)


def adds_up(station: Station, dataset: str, offered: int) -> None:
    """Every file has one fate, in the ledger and in the numbers."""
    view = seen(station, dataset)
    told = fates(station, dataset)
    assert view.fates[Fate.PENDING] == 0
    assert view.found == view.done == offered == len(told)
    assert all(fate != "pending" for fate, _ in told.values())
    with station.database.reading() as session:
        assert {job.state for job in session.query(Job)} <= {"done", "cancelled"}


class TestProgress:
    def test_only_goes_up_names_what_is_done_and_ends(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, PICTURES | {"0.txt": b"a cat", "set.zip": zipped({"x.png": picture(9), "y.md": b""})})
        told = [seen(station, dataset)]
        real = reading.Reading.tell

        def tell(*arguments: object) -> None:
            real(*arguments)  # type: ignore[arg-type] # passed through
            told.append(seen(station, dataset))

        monkeypatch.setattr(reading.Reading, "tell", tell)
        read_all(station, decoder)
        told.append(seen(station, dataset))
        numbers = [(view.seq, view.found, view.done, view.found_bytes, view.done_bytes) for view in told]
        for column in zip(*numbers, strict=True):
            assert list(column) == sorted(column)
        assert {view.phase for view in told} == {None, "unpacking", "decoding", "settling"}
        assert {(view.file, view.file_done, view.file_total) for view in told} >= {
            ("3.png", None, None),
            ("set.zip", 1, 2),
        }
        assert (told[0].done, told[-1].done, told[-1].status) == (0, 10, IngestStatus.DONE)
        assert told[-1].fates == {Fate.PENDING: 0, Fate.USED: 9, Fate.DUPLICATE: 0, Fate.REJECTED: 1}


class TestCancel:
    def test_between_files_keeps_what_was_taken_and_names_the_rest(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"0.txt": b"a cat"} | PICTURES | {"copy.png": picture(0)})
        after(monkeypatch, 3, lambda: cancel(station, dataset))
        read_all(station, decoder)
        told = fates(station, dataset)
        assert captions(station, dataset) == {"0.png": "a cat", "1.png": None}
        cancelled = [name for name, what in told.items() if what == ("rejected", progress.CANCELLED)]
        assert cancelled == ["2.png", "3.png", "4.png", "5.png", "copy.png"]
        assert seen(station, dataset).status is IngestStatus.CANCELLED
        adds_up(station, dataset, 8)
        left = station.settings.home_dir / "blobs" / "uploads"
        assert [path for path in left.rglob("*") if path.is_file()] == []

    def test_inside_an_archive_is_heard_between_two_entries(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"first.png": picture(50), "set.zip": zipped(PICTURES)})
        unpacked = []
        real = archives._read

        def read(*arguments: object) -> object:
            unpacked.append(arguments)
            if len(unpacked) == 2:
                assert cancel(station, dataset).status is IngestStatus.CANCELLING
            return real(*arguments)  # type: ignore[arg-type] # passed through

        monkeypatch.setattr(archives, "_read", read)
        read_all(station, decoder)
        assert len(unpacked) == 2
        assert fates(station, dataset)["set.zip"] == ("rejected", progress.CANCELLED)
        assert fates(station, dataset)["first.png"][0] == "used"
        adds_up(station, dataset, 2)
        left = station.settings.home_dir / "blobs" / "uploads"
        assert [path for path in left.rglob("*") if path.is_file()] == []

    def test_when_all_is_read_and_only_brought_together_still_gives_captions(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"0.png": picture(0), "0.txt": b"a cat"})
        real = reading.Reading.tell

        def tell(self: reading.Reading, phase: IngestPhase, *rest: object) -> None:
            if phase is IngestPhase.SETTLING:
                cancel(station, dataset)
            real(self, phase, *rest)  # type: ignore[arg-type] # passed through

        monkeypatch.setattr(reading.Reading, "tell", tell)
        read_all(station, decoder)
        assert captions(station, dataset) == {"0.png": "a cat"}
        assert seen(station, dataset).status is IngestStatus.CANCELLED
        adds_up(station, dataset, 2)

    @pytest.mark.parametrize("packed", [False, True])
    def test_the_same_files_offered_again_are_read(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, packed: bool
    ) -> None:
        files = {"set.zip": zipped(PICTURES)} if packed else PICTURES
        with station.database.session() as session:
            dataset = datasets.create(session, OWNER, "again").id
        asked = [(name, f"{n:064x}") for n, name in enumerate(files)]

        def offer() -> None:
            for name, sha256 in asked:
                key = f"uploads/{OWNER}/{name}"
                station.blobs.put_bytes(key, files[name])
                with station.database.session() as session:
                    uploads.offer(session, OWNER, dataset, name, key, len(files[name]), sha256)

        def known() -> list[bool]:
            with station.database.reading() as session:
                return uploads.known(session, OWNER, dataset, asked)

        offer()
        with monkeypatch.context() as patched:
            after(patched, 3, lambda: cancel(station, dataset))
            read_all(station, decoder)
        assert 0 < len(captions(station, dataset)) < len(PICTURES)
        assert known() == ([False] if packed else [True, True, True, False, False, False])
        offer()
        read_all(station, decoder)
        assert set(captions(station, dataset)) == set(PICTURES)
        assert all(known())
        assert seen(station, dataset).status is IngestStatus.DONE

    def test_is_kept_by_the_worker_after_one_that_crashed(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = upload(station, {"0.txt": b"a cat"} | PICTURES)

        def cancel_and_crash() -> None:
            cancel(station, dataset)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            after(patched, 3, cancel_and_crash)
            with pytest.raises(KeyboardInterrupt):
                light.work(station, decoder, Shift())
        assert seen(station, dataset).status is IngestStatus.CANCELLING
        with station.database.session() as session:
            session.query(Job).update({"lease_until": db_now() - 1})
        with station.database.session() as session:
            sweep(session)
        assert not light.work(station, decoder, Shift())
        assert captions(station, dataset) == {"0.png": "a cat", "1.png": None}
        assert seen(station, dataset).status is IngestStatus.CANCELLED
        adds_up(station, dataset, 7)

    def test_is_kept_by_a_worker_that_drains_or_fails(
        self, station: Station, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            cancel(station, dataset)
            raise RuntimeError("trouble")

        shift = Shift()

        def drain() -> None:
            cancel(station, dataset)
            shift.drain()

        for name, act in (("failing", fail), ("draining", drain)):
            dataset = upload(station, PICTURES, name)
            with monkeypatch.context() as patched:
                after(patched, 2, act)
                assert light.work(station, decoder, shift)
            assert seen(station, dataset).status is IngestStatus.CANCELLED
            assert len(captions(station, dataset)) == 2
            adds_up(station, dataset, 6)
