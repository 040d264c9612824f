"""Parquet in a child that may misbehave, and what its rows may add up to."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker import tables
from worker.archives import Limits
from worker.metadata import Unusable
from worker.tables import TableRow, opened_table, table_lines

MEGABYTE = 1024**2


def written(folder: Path, columns: dict[str, list[object]]) -> Path:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    path = folder / "t.parquet"
    path.write_bytes(stream.getvalue())
    return path


def rows_of(path: Path, limits: Limits | None = None) -> list[TableRow]:
    with opened_table(path, "t.parquet", limits) as table:
        return list(table.rows)


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[pytest.MonkeyPatch, Path]:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    return monkeypatch, tmp_path / "t.parquet"


class TestRows:
    def test_plain_bytes_under_a_pictures_name_are_pictures(self, tmp_path: Path) -> None:
        (row,) = rows_of(written(tmp_path, {"jpg": [b"pixels"], "txt": ["a cat"]}))
        assert (row.name, row.picture, row.caption) == ("t.parquet:1/image", b"pixels", "a cat")

    def test_the_image_column_wins_over_other_structs(self, tmp_path: Path) -> None:
        values = {"mask": [{"bytes": b"m"}], "image": [{"bytes": b"i"}], "repeats": [4], "concept": ["dog"]}
        (row,) = rows_of(written(tmp_path, {name: list(value) for name, value in values.items()}))
        assert (row.picture, row.mask, row.repeats, row.concept, row.caption) == (b"i", b"m", 4, "dog", None)

    def test_more_rows_than_allowed_end_with_a_row_that_says_so(self, tmp_path: Path) -> None:
        found = rows_of(written(tmp_path, {"image": [b"a", b"b", b"c"]}), Limits(entries=2))
        assert [row.picture for row in found] == [b"a", b"b", None]
        assert "more than 2 rows" in str(found[2].reason)

    def test_a_picture_that_is_too_large_costs_its_row_alone(self, tmp_path: Path) -> None:
        found = rows_of(written(tmp_path, {"image": [bytes(2 * MEGABYTE), b"b"]}), Limits(entry_bytes=MEGABYTE))
        assert [(row.picture, row.reason) for row in found] == [(None, "larger than 1 MB"), (b"b", None)]

    def test_a_file_that_unpacks_without_end_is_stopped(self, tmp_path: Path) -> None:
        found = rows_of(written(tmp_path, {"image": [bytes(8 * MEGABYTE)] * 12}))
        assert 8 <= len(found) < 12
        assert "suspiciously tightly" in str(found[-1].reason)


class TestLines:
    def test_a_metadata_parquet_needs_names(self, tmp_path: Path) -> None:
        with pytest.raises(Unusable, match="file_name"):
            table_lines(written(tmp_path, {"text": ["a cat"]}))


class TestChild:
    def test_one_that_dies_is_a_refused_file(self, misbehaving: tuple[pytest.MonkeyPatch, Path]) -> None:
        patch, path = misbehaving
        patch.setattr(tables, "CHILD", (sys.executable, "-c", "raise SystemExit(9)"))
        with pytest.raises(Unusable, match="more time or memory"):
            rows_of(path)

    def test_one_that_hangs_is_ended(self, misbehaving: tuple[pytest.MonkeyPatch, Path]) -> None:
        patch, path = misbehaving
        patch.setattr(tables, "CHILD", (sys.executable, "-c", "import sys; sys.stdin.read()"))
        patch.setattr(tables, "TIMEOUT_S", 0.5)
        with pytest.raises(Unusable, match="more time or memory"):
            rows_of(path)

    def test_one_that_claims_an_endless_answer_is_not_believed(
        self, misbehaving: tuple[pytest.MonkeyPatch, Path]
    ) -> None:
        patch, path = misbehaving
        script = "import socket; socket.socket(fileno=0).sendall(b'\\xff' * 8)"
        patch.setattr(tables, "CHILD", (sys.executable, "-c", script))
        with pytest.raises(Unusable, match="more time or memory"):
            rows_of(path)

    def test_one_that_speaks_nonsense_is_not_believed(self, misbehaving: tuple[pytest.MonkeyPatch, Path]) -> None:
        patch, path = misbehaving
        script = "import socket; socket.socket(fileno=0).sendall(b'\\0' * 7 + b'\\3' + b'{}x')"
        patch.setattr(tables, "CHILD", (sys.executable, "-c", script))
        with pytest.raises(Unusable, match="more time or memory"):
            rows_of(path)
