"""Lists of addresses as a light worker fetches them, from real servers on loopback into a real store."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from sqlalchemy import update

from catalog.blobs import BlobStore
from catalog.datasets import fetches, ingests
from catalog.datasets import service as datasets
from catalog.datasets.fetches import Offered, Wanted
from catalog.datasets.models import DatasetFetch
from catalog.db import db_now
from catalog.jobs import Job
from catalog.sweep import sweep
from contracts.dataset import DatasetStatus
from contracts.ingest import IngestStatus
from tests.databases import new_home
from tests.worker.conftest import OWNER, captions, fates, picture, upload, zipped
from tests.worker.origins import Origin, answer, endless, moved, ok, origin
from worker import fetch, light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.fetch_client import trust
from worker.settings import WorkerSettings
from worker.station import Station, open_station

PAGE = b"\n<!DOCTYPE html><html><body>a cat</body></html>"


@pytest.fixture(scope="module")
def trusted() -> ssl.SSLContext:
    return trust()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture
def web() -> Iterator[Origin]:
    with origin() as server:
        yield server


@pytest.fixture
def station(home: Path, web: Origin) -> Iterator[Station]:
    settings = WorkerSettings(
        home=new_home(home),
        fetch_allowed_networks=(ip_network("127.0.0.1/32"),),
        fetch_ports=frozenset({web.port}),
        fetch_bytes=100_000,
        fetch_timeout_s=20,
    )
    station = open_station("test", ("cpu",), settings)
    yield station
    station.close()


class Worker:
    """A light worker's two duties, done when a test wants it."""

    def __init__(self, station: Station, decoder: Decoder, trusted: ssl.SSLContext) -> None:
        self.station, self.decoder, self.trusted = station, decoder, trusted
        self.shift = Shift()

    def fetch(self) -> bool:
        return fetch.work(self.station, self.shift, self.trusted)

    def read(self) -> None:
        while light.work(self.station, self.decoder, self.shift):
            pass

    def all(self) -> None:
        """Everything there is to do, without waiting for what is to be tried later."""
        while self.fetch():
            pass
        self.read()

    def later(self) -> None:
        """As if every pause were over."""
        with self.station.database.session() as session:
            session.execute(update(DatasetFetch).values(not_before=db_now() - 1))
            session.execute(update(Job).values(not_before=None))


@pytest.fixture
def worker(station: Station, decoder: Decoder, trusted: ssl.SSLContext) -> Worker:
    return Worker(station, decoder, trusted)


def offer(station: Station, *wanted: Wanted | str, name: str = "pictures") -> str:
    """Offer addresses to the dataset of that name; its id."""
    dataset = upload(station, {}, name)
    give(station, dataset, wanted)
    return dataset


def give(station: Station, dataset: str, wanted: Sequence[Wanted | str]) -> Offered:
    with station.database.session() as session:
        listed = [one if isinstance(one, Wanted) else Wanted(one) for one in wanted]
        return fetches.offer(session, OWNER, dataset, listed)


def status(station: Station, dataset: str) -> DatasetStatus:
    with station.database.reading() as session:
        return datasets.read(session, OWNER, dataset).status


class TestPictures:
    def test_are_used_under_their_address_with_their_caption(
        self, station: Station, worker: Worker, web: Origin
    ) -> None:
        cat, dog = web.gives("/1_x/cat.png?size=1.5", ok(picture(1))), web.gives("/dog?size=1.7", ok(picture(2)))
        dataset = offer(station, Wanted(cat, "a  cat "), dog)
        assert status(station, dataset) is DatasetStatus.INGESTING
        worker.all()
        assert captions(station, dataset) == {cat: "a cat", dog: None}
        told = fates(station, dataset)
        assert told.pop(f"{cat}:caption") == ("used", None)
        assert {url: fate for url, (fate, _) in told.items()} == {cat: "used", dog: "used"}
        assert told[cat] == ("used", None), "a folder in an address is no kohya folder"
        assert status(station, dataset) is DatasetStatus.READY

    def test_that_show_the_same_are_duplicates_of_each_other_and_of_uploads(
        self, station: Station, worker: Worker, web: Origin
    ) -> None:
        dataset = upload(station, {"mine.png": picture(1)})
        worker.read()
        url = web.gives("/a.png", ok(picture(1)))
        give(station, dataset, [url])
        worker.all()
        assert fates(station, dataset)[url] == ("duplicate", "the same picture as mine.png")

    def test_are_stored_without_what_came(self, station: Station, worker: Worker, web: Origin) -> None:
        offer(station, web.gives("/a.png", ok(picture(1))))
        worker.all()
        stored = station.settings.home_dir / "blobs" / "uploads"
        assert [path for path in stored.rglob("*") if path.is_file()] == []


class TestWhatIsNoPicture:
    def test_meets_its_fate_in_the_ledger_and_costs_no_other(
        self, station: Station, worker: Worker, web: Origin
    ) -> None:
        good = web.gives("/good", ok(picture(1)))
        bad = {
            web.gives("/404", answer("404 Not Found", "content-length: 0")): "answered 404",
            web.gives("/page", ok(PAGE)): "a web page",
            web.gives("/zip", ok(zipped({"a.png": picture(2)}))): "an archive is there",
            web.gives("/text", ok(b"a picture of a cat")): "not a PNG",
            web.gives("/cut", ok(picture(3)[:300])): "damaged",
            web.gives("/large", endless(answer("200 OK"))): "larger than 100000 bytes",
            web.gives("/inside", moved("http://127.0.0.2/")): "80 is not fetched from",
            web.gives("/meta", moved(f"http://169.254.169.254:{web.port}/")): "no public address",
            "http://127.0.0.1:22/": "port 22 is not fetched from",
            f"http://[::1]:{web.port}/": "no public address",
        }
        dataset = offer(station, good, *bad)
        worker.all()
        told = fates(station, dataset)
        assert told.pop(good)[0] == "used"
        assert set(told) == set(bad)
        for url, words in bad.items():
            fate, reason = told[url]
            assert fate == "rejected"
            assert words in str(reason)
        assert status(station, dataset) is DatasetStatus.READY

    def test_leaves_its_caption_without_an_image(self, station: Station, worker: Worker, web: Origin) -> None:
        # Beside it lies one that does come, which must not be given the other's words.
        lost, found = (web.gives(f"/a{part}.png", ok(picture(1))) for part in ("", "/a"))
        web.gives("/a.png", answer("404 Not Found", "content-length: 0"))
        dataset = offer(station, Wanted(lost, "lost"), found)
        worker.all()
        assert fates(station, dataset)[f"{lost}:caption"] == ("rejected", f"there is no usable image named {lost}")
        assert captions(station, dataset) == {found: None}

    def test_counts_against_the_bytes_of_the_dataset(self, station: Station, worker: Worker, web: Origin) -> None:
        small = replace(station, settings=station.settings.model_copy(update={"max_dataset_bytes": 4000}))
        worker.station = small
        urls = [web.gives(f"/{n}.png", ok(picture(n))) for n in range(2)]
        dataset = offer(station, *urls)
        worker.all()
        told = [reason for fate, reason in fates(station, dataset).values() if fate == "rejected"]
        assert len(told) == 1
        assert "over 4000 bytes" in str(told[0])

    def test_does_not_stop_the_others_when_nobody_foresaw_it(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = fetch.fetch

        def broken(url: str, *arguments: object) -> bytes:
            if url.endswith("odd"):
                raise RuntimeError("10.0.0.1 is odd")
            return real(url, *arguments)  # type: ignore[arg-type] # passed through

        monkeypatch.setattr(fetch, "fetch", broken)
        good, odd = web.gives("/good", ok(picture(1))), web.gives("/odd", ok(picture(2)))
        dataset = offer(station, odd, good)
        worker.all()
        told = fates(station, dataset)
        assert told[good][0] == "used"
        assert told[odd][0] == "rejected"
        assert "10.0.0.1" not in str(told[odd][1])


class TestTrouble:
    def test_that_passes_is_waited_out(self, station: Station, worker: Worker, web: Origin) -> None:
        url = web.gives("/a.png", answer("503 Busy", "content-length: 0"), b"", ok(picture(1)))
        dataset = offer(station, url)
        for turn in range(2):
            worker.all()
            fate, reason = fates(station, dataset)[url]
            assert fate == "pending"
            assert "again soon" in str(reason)
            assert len(web.asked) == turn + 1, "it is left alone meanwhile"
            assert status(station, dataset) is DatasetStatus.INGESTING
            worker.later()
        worker.all()
        assert fates(station, dataset)[url][0] == "used"

    def test_with_the_store_is_waited_out_as_well(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = web.gives("/a.png", ok(picture(1)))
        dataset = offer(station, url)
        with monkeypatch.context() as patched:
            patched.setattr(BlobStore, "put_bytes", lambda *_: 1 / 0)
            worker.all()
        assert fates(station, dataset)[url] == ("pending", "is fetched again soon: it came and could not be stored")
        worker.later()
        worker.all()
        assert fates(station, dataset)[url][0] == "used"

    def test_that_does_not_pass_ends(self, station: Station, worker: Worker, web: Origin) -> None:
        url = web.gives("/a.png", answer("500 Oh", "content-length: 0"))
        dataset = offer(station, url)
        for _ in range(10):
            worker.all()
            worker.later()
        attempts = len(fetches.PAUSES_S) + 1
        assert len(web.asked) == attempts
        fate, reason = fates(station, dataset)[url]
        assert fate == "rejected"
        assert f"answered 500 (Internal Server Error); tried {attempts} times" in str(reason)
        assert status(station, dataset) is DatasetStatus.EMPTY

    def test_of_one_list_does_not_hold_up_another_or_the_uploads(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "BATCH_URLS", 2)
        long = offer(station, *[web.gives(f"/long/{n}", ok(picture(n))) for n in range(5)], name="long")
        short = offer(station, web.gives("/short", ok(picture(9))), name="short")
        assert worker.fetch()
        assert len(web.asked) == 2
        assert worker.fetch()
        assert web.asked[2:] == ["/short"], "its turn comes before the rest of the long list"
        worker.all()
        assert {fate for fate, _ in fates(station, long).values()} == {"used"}
        assert len(captions(station, short)) == 1

    def test_with_the_disk_loses_nothing_and_is_no_failure(self, station: Station, worker: Worker, web: Origin) -> None:
        full = replace(station, settings=station.settings.model_copy(update={"disk_reserve_bytes": 1 << 60}))
        dataset = offer(station, web.gives("/a.png", ok(picture(1))))
        worker.station = full
        for _ in range(len(fetches.PAUSES_S) + 2):
            worker.all()
            worker.later()
        ((fate, reason),) = fates(station, dataset).values()
        assert fate == "pending"
        assert "waits for room" in str(reason)
        worker.station = station
        worker.all()
        assert len(captions(station, dataset)) == 1


class TestAttempts:
    def test_a_crash_in_the_middle_loses_nothing_and_repeats_nothing(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        urls = [web.gives(f"/{n}", ok(picture(n))) for n in range(6)]
        dataset = offer(station, *(Wanted(url, f"number {n}") for n, url in enumerate(urls)))
        real, calls = fetches.record, []

        def crash(*arguments: object) -> bool:
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*arguments)  # type: ignore[arg-type] # passed through

        with monkeypatch.context() as patched:
            patched.setattr(fetches, "record", crash)
            with pytest.raises(KeyboardInterrupt):
                worker.fetch()
        expire(station)
        worker.all()
        assert len(set(web.asked)) == len(urls)
        assert len(web.asked) == len(urls) + 1, "only what was lost is fetched again"
        assert captions(station, dataset) == {url: f"number {n}" for n, url in enumerate(urls)}
        assert len(fates(station, dataset)) == 12

    def test_a_worker_that_was_given_up_writes_nothing(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = offer(station, web.gives("/a.png", ok(picture(1))))
        real = fetch.fetch

        def slow(*arguments: object) -> bytes:
            content = real(*arguments)  # type: ignore[arg-type] # passed through
            expire(station)
            return content

        with monkeypatch.context() as patched:
            patched.setattr(fetch, "fetch", slow)
            assert worker.fetch()
        assert [fate for fate, _ in fates(station, dataset).values()] == ["pending"]
        worker.all()
        assert [fate for fate, _ in fates(station, dataset).values()] == ["used"]

    def test_a_draining_worker_gives_the_job_back(self, station: Station, worker: Worker, web: Origin) -> None:
        offer(station, web.gives("/a.png", ok(picture(1))))
        worker.shift.drain()
        worker.fetch()
        assert web.asked == []
        with station.database.reading() as session:
            job = session.query(Job).one()
            assert (job.kind, job.state, job.preemptions, job.failures) == ("fetch", "queued", 1, 0)

    def test_a_job_that_keeps_failing_is_given_up_in_the_ledger(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = offer(station, Wanted(web.gives("/a.png", ok(picture(1))), "a caption"))
        upload(station, {"mine.png": picture(2)})
        with monkeypatch.context() as patched:
            patched.setattr(fetches, "due", lambda *_: 1 / 0)
            while worker.fetch():
                assert not worker.fetch(), "it is left alone for a while first"
                worker.later()
        worker.read()
        told = fates(station, dataset)
        assert told.pop("mine.png")[0] == "used"
        assert {fate for fate, _ in told.values()} == {"rejected"}
        assert status(station, dataset) is DatasetStatus.READY

    def test_uploads_that_cannot_be_read_do_not_take_addresses_with_them(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = offer(station, web.gives("/a.png", ok(picture(1))))
        upload(station, {"mine.png": picture(2)})
        with monkeypatch.context() as patched:
            patched.setattr(light, "read_uploads", lambda *_: 1 / 0)
            while light.work(station, worker.decoder, worker.shift):
                worker.later()
        assert fates(station, dataset)["mine.png"][0] == "rejected"
        worker.all()
        assert list(captions(station, dataset)) == [web.gives("/a.png", b"")]

    def test_two_workers_fetch_each_address_once(self, station: Station, worker: Worker, web: Origin) -> None:
        dataset = offer(station, *[web.gives(f"/{n}", ok(picture(n))) for n in range(6)])
        threads = [threading.Thread(target=worker.all) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        worker.all()
        assert sorted(web.asked) == [f"/{n}" for n in range(6)]
        assert {fate for fate, _ in fates(station, dataset).values()} == {"used"}


class TestCancel:
    def cancel(self, station: Station, dataset: str) -> IngestStatus:
        with station.database.session() as session:
            return ingests.cancel(session, OWNER, dataset).ingest.status

    def test_fetches_no_more(self, station: Station, worker: Worker, web: Origin) -> None:
        dataset = offer(station, web.gives("/a.png", ok(picture(1))))
        assert self.cancel(station, dataset) is IngestStatus.CANCELLED
        worker.all()
        assert web.asked == []
        assert [fate for fate, _ in fates(station, dataset).values()] == ["rejected"]
        assert status(station, dataset) is DatasetStatus.EMPTY

    def test_drops_what_is_under_way(
        self, station: Station, worker: Worker, web: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (web.gives(f"/{n}", ok(picture(n))) for n in range(2))
        dataset = offer(station, first)
        worker.all()
        give(station, dataset, [second])
        real = fetch.fetch

        def cancelled_meanwhile(*arguments: object) -> bytes:
            content = real(*arguments)  # type: ignore[arg-type] # passed through
            assert self.cancel(station, dataset) is IngestStatus.CANCELLING
            return content

        monkeypatch.setattr(fetch, "fetch", cancelled_meanwhile)
        worker.all()
        assert [fate for fate, _ in fates(station, dataset).values()] == ["used", "rejected"]
        stored = station.settings.home_dir / "blobs" / "uploads"
        assert [path for path in stored.rglob("*") if path.is_file()] == []
        with station.database.reading() as session:
            assert ingests.read(session, OWNER, dataset).status is IngestStatus.CANCELLED
        assert status(station, dataset) is DatasetStatus.READY


def expire(station: Station) -> None:
    """As if the worker had been silent for longer than its lease."""
    with station.database.session() as session:
        session.execute(update(Job).where(Job.state == "leased").values(lease_until=0.0))
        sweep(session)
