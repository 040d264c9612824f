"""One upload of everything hostile with good files in between: each file ends in the ledger, the good ones are used.

The corpus is read once, by the real light worker with its children; the tests look at what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from catalog.datasets import service as datasets
from tests.worker.conftest import OWNER, picture, upload
from tests.worker.hostile import Hostile, corpus, members
from worker import light
from worker.decode import Decoder
from worker.decode_child import MEMORY_BYTES
from worker.doorbell import Shift
from worker.settings import WorkerSettings
from worker.station import open_station

EXPECTED = {file.name: file for file in corpus()}
CHILD_PEAK_BYTES = 1024**3
"""Of the decoding child over the whole corpus, 40 million pixels included; it may not come near its own limit."""


class Aftermath(NamedTuple):
    """What came of the corpus."""

    rows: list[Any]
    blobs: Path
    home: Path
    child_peak_bytes: int
    child_limit_bytes: int

    def row(self, name: str) -> Any:
        found = [row for row in self.rows if row.filename == name]
        assert len(found) == 1, f"{name} is {len(found)} times in the ledger"
        return found[0]


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    home = tmp_path_factory.mktemp("hostile") / "home"
    station = open_station("test", ("cpu",), WorkerSettings(home=home, lease_s=600, device="cpu"))
    files = {name: file.data for name, file in EXPECTED.items()}
    dataset = upload(station, {"good.png": picture(1)} | files | {"last.png": picture(2), "last.txt": b"the last"})
    with Decoder() as decoder:
        while light.work(station, decoder, Shift()):
            pass
        decoder.decode(picture(1))  # starts it anew if the last file had ended it
        assert decoder._child is not None
        proc = Path("/proc", str(decoder._child.pid))
        peak = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
        limit = next(line for line in (proc / "limits").read_text().splitlines() if "address space" in line)
    with station.database.reading() as session:
        rows = list(datasets.ledger(session, OWNER, dataset, limit=100_000))
        session.expunge_all()
    yield Aftermath(rows, home / "blobs", home, int(peak.split()[1]) * 1024, int(limit.split()[3]))
    station.close()


class TestEveryFile:
    @pytest.mark.parametrize("file", EXPECTED.values(), ids=list(EXPECTED))
    def test_meets_the_fate_it_deserves(self, aftermath: Aftermath, file: Hostile) -> None:
        row = aftermath.row(file.name)
        assert row.fate == file.fate, row.reason
        assert file.word in str(row.reason)

    @pytest.mark.parametrize("name", members())
    def test_inside_an_archive_does_as_well(self, aftermath: Aftermath, name: str) -> None:
        fate, word = members()[name]
        row = aftermath.row(name)
        assert row.fate == fate, row.reason
        assert word in str(row.reason)

    def test_has_a_fate_and_every_rejected_one_a_reason(self, aftermath: Aftermath) -> None:
        assert {row.fate for row in aftermath.rows} <= {"used", "duplicate", "rejected"}
        assert [row.filename for row in aftermath.rows if row.fate == "rejected" and not row.reason] == []

    def test_has_a_name_that_can_be_shown(self, aftermath: Aftermath) -> None:
        assert all(len(row.filename) <= 500 and row.filename.isprintable() for row in aftermath.rows)


class TestTheGoodOnes:
    def test_survive_before_and_after_all_of_it(self, aftermath: Aftermath) -> None:
        told = {name: (aftermath.row(name).fate, aftermath.row(name).caption) for name in ("good.png", "last.png")}
        assert told == {"good.png": ("used", "a good caption"), "last.png": ("used", "the last")}

    def test_captions_come_out_clean(self, aftermath: Aftermath) -> None:
        told = {name: aftermath.row(name).caption for name in ("jpeg.png", "cmyk.jpg", "deep.png", "polyglot.jpg")}
        assert told == {
            "jpeg.png": "sixteen",
            "cmyk.jpg": "marked",
            "deep.png": "start and [31m bell",
            "polyglot.jpg": "found",
        }

    def test_rows_of_a_table_survive_the_tables_that_lie(self, aftermath: Aftermath) -> None:
        assert aftermath.row("good.parquet:4/3.png").caption == "row 3"
        assert "not read" in str(aftermath.row("pages.parquet:rest").reason)


class TestNothingElse:
    def test_is_stored_but_pixels(self, aftermath: Aftermath) -> None:
        stored = [path for path in aftermath.blobs.rglob("*") if path.is_file()]
        assert stored
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in stored)
        assert not any(b"PK\x03\x04" in path.read_bytes() for path in stored), "the tail of a polyglot was kept"

    def test_is_written_outside_the_home(self, aftermath: Aftermath) -> None:
        assert list(aftermath.home.parent.iterdir()) == [aftermath.home]
        assert [path for path in aftermath.home.rglob("*") if "slip" in path.name or "windows" in path.name] == []

    def test_makes_the_child_large(self, aftermath: Aftermath) -> None:
        assert aftermath.child_limit_bytes == MEMORY_BYTES
        assert aftermath.child_peak_bytes < CHILD_PEAK_BYTES
