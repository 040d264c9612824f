"""Whatever tree of files is uploaded, the ledger accounts for all of it: used + duplicate + rejected = offered."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.datasets import ingests
from catalog.datasets import service as datasets
from catalog.datasets.captions import tidy_name
from catalog.datasets.models import DatasetImage
from catalog.datasets.settling import settle
from contracts.dataset import Fate
from contracts.ingest import ENDED
from tests.worker.conftest import OWNER, picture, upload, zipped
from worker import light, reading
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.settings import WorkerSettings
from worker.station import Station, open_station

PICTURES = [picture(seed) for seed in range(4)]
FOLDERS = ("", "train/", "10_sks dog/", "../up/", "a/b/")
STEMS = ("cat", "dog", "Cat", "ünï", "x" * 300, "cat_mask")


class File(NamedTuple):
    """A file and how many rows of the ledger lie inside it."""

    name: str
    data: bytes
    lines: int = 0


def _lines_of(names: list[str]) -> st.SearchStrategy[list[object]]:
    entry = st.fixed_dictionaries({"file_name": st.sampled_from(names), "text": st.sampled_from(["one", "two", ""])})
    told = st.fixed_dictionaries(
        {"file_name": st.sampled_from(names), "split": st.sampled_from(["train", "test", "left"])},
        optional={
            "text": st.just(""),
            "concept": st.just("dog"),
            "repeats": st.integers(-1, 3),
            "\ud800": st.just("x"),
        },
    )
    return st.lists(st.one_of(entry, told, st.just({"file_name": names[0]}), st.just([1])), max_size=4)


def _metadata(folder: str, entries: list[object]) -> list[File]:
    kohya = {f"{folder}{n}": {"caption": "three"} for n, _ in enumerate(entries)}
    return [
        File(f"{folder}metadata.jsonl", "\n".join(map(json.dumps, entries)).encode(), len(entries)),
        File(f"{folder}metadata.csv", b"file_name,text\n" + b"cat.png,four\n" * len(entries), len(entries)),
        File(f"{folder}meta_cap.json", json.dumps(kohya).encode(), len(entries)),
    ]


named = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(STEMS)).map("".join)
pictures = st.builds(
    lambda name, extension, data: File(name + extension, data),
    named,
    st.sampled_from([".png", ".PNG", ".jpg", ".webp"]),
    st.sampled_from([*PICTURES, PICTURES[0][:100], b"", b"no picture"]),
)
captions = st.builds(
    lambda name, extension, text: File(name + extension, text),
    named,
    st.sampled_from([".txt", ".caption"]),
    st.sampled_from([b"a cat", b"  ", b"\xff\xfe\x81", b"\xef\xbb\xbfmarked", b"y" * 20_000]),
)
others = st.sampled_from([File("notes.pdf", b"%PDF"), File("set.tar", b"x"), File("a/b", b""), File("cut.zip", b"PK")])
metadata = st.tuples(st.sampled_from(FOLDERS), _lines_of(["cat.png", "train/dog.jpg", "none.png"])).flatmap(
    lambda drawn: st.sampled_from(_metadata(*drawn))
)
files = st.lists(st.one_of(pictures, pictures, captions, metadata, others), max_size=8).map(
    lambda drawn: list({file.name: file for file in drawn}.values())
)
trees = st.tuples(files, st.lists(files, max_size=2))


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    home = tmp_path_factory.mktemp("property")
    station = open_station("test", ("cpu",), WorkerSettings(home=home, lease_s=600, device="cpu"))
    yield station
    station.close()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


NUMBERS = itertools.count()


class TestLedger:
    @pytest.mark.timeout(1200)  # a tree that fails is shrunk before it is shown
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(tree=trees)
    def test_names_every_file_once_whatever_is_offered(
        self, station: Station, decoder: Decoder, tree: tuple[list[File], list[list[File]]]
    ) -> None:
        loose, packed = tree
        zips = {f"packed{n}.zip": members for n, members in enumerate(packed)}
        sent = {file.name: file.data for file in loose}
        sent |= {name: zipped({file.name: file.data for file in members}) for name, members in zips.items()}
        dataset = upload(station, {"sure.png": picture(9)} | sent, f"tree{next(NUMBERS)}")
        while light.work(station, decoder, Shift()):
            pass
        told = _told(station, dataset)
        everything = [*loose, *itertools.chain(*zips.values()), File("sure.png", b"")]
        offered = Counter([*(tidy_name(file.name) for file in everything), *zips])
        for file in everything:
            offered.update(f"{tidy_name(file.name)}:{place}" for place in _places(file))
        assert Counter(name for name, *_ in told) == offered
        by_fate = Counter(fate for _, fate, *_ in told)
        assert by_fate[Fate.USED] + by_fate[Fate.DUPLICATE] + by_fate[Fate.REJECTED] == offered.total()
        assert all(reason for _, fate, reason, *_ in told if fate != Fate.USED)
        used = [image for _, fate, _, kind, image in told if (kind, fate) == ("image", Fate.USED)]
        assert len(used) == len(set(used))
        with station.database.session() as session:
            stored = session.query(DatasetImage).filter(DatasetImage.dataset_id == dataset).all()
            assert {row.image for row in stored} == set(used)
            settle(session, OWNER, dataset)
        assert _told(station, dataset) == told, "bringing things together twice changed something"


def _told(station: Station, dataset: str) -> list[tuple[str, str, str | None, str, str | None]]:
    with station.database.reading() as session:
        rows = datasets.ledger(session, OWNER, dataset, limit=10_000)
        return [(row.filename, row.fate, row.reason, row.kind, row.image) for row in rows]


def _places(file: File) -> range:
    """Numbers of the lines of a metadata file, as they are counted in it."""
    first = 2 if file.name.endswith(".csv") else 1
    return range(first, first + file.lines)


class TestCancelledReading:
    @pytest.mark.timeout(1200)
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )
    @given(tree=trees, after=st.integers(0, 12))
    def test_leaves_every_file_one_fate_wherever_it_was_cut(
        self,
        station: Station,
        decoder: Decoder,
        monkeypatch: pytest.MonkeyPatch,
        tree: tuple[list[File], list[list[File]]],
        after: int,
    ) -> None:
        loose, packed = tree
        sent = {file.name: file.data for file in loose} | {
            f"packed{n}.zip": zipped({file.name: file.data for file in members}) for n, members in enumerate(packed)
        }
        dataset = upload(station, {"sure.png": picture(9)} | sent, f"cut{next(NUMBERS)}")
        looks = itertools.count()
        real = reading.Reading.check

        def check(self: reading.Reading) -> None:
            if next(looks) == after:
                with station.database.session() as session:
                    ingests.cancel(session, OWNER, dataset)
            real(self)

        with monkeypatch.context() as patched:
            patched.setattr(reading.Reading, "check", check)
            patched.setattr(reading, "TELL_EVERY_S", 0.0)
            while light.work(station, decoder, Shift()):
                pass
        told = _told(station, dataset)
        with station.database.reading() as session:
            seen = ingests.read(session, OWNER, dataset)
        assert seen.status in ENDED
        assert seen.fates[Fate.PENDING] == 0
        assert seen.found == seen.done == len(told)
        assert {name for name, *_ in told} >= {"sure.png", *map(tidy_name, sent)}
        assert all(reason for _, fate, reason, *_ in told if fate != Fate.USED)
        with station.database.session() as session:
            settle(session, OWNER, dataset)
        assert _told(station, dataset) == told, "bringing things together twice changed something"
