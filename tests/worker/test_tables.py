"""Parquet in a child that may misbehave, and what its rows may add up to."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker import tables
from worker.archives import Limits
from worker.metadata import Unusable
from worker.sandbox import receive
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


PICTURES = {"kind": "pictures", "image": "image", "text": None, "split": False}
LINES = {"kind": "lines"}
TEXTS = {"path": None, "text": None, "concept": None, "repeats": None, "split": None}
ROW = {"number": 1, **TEXTS, "picture_bytes": 1, "mask_bytes": 0}
LINE = {"number": 1, "values": {"file_name": "a.png", "text": "a cat"}}
END = {"end": True}


def taken_over(patch: pytest.MonkeyPatch, *messages: object) -> None:
    """The child says these messages, whatever the file holds; bytes as they are, anything else as JSON."""
    said = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in messages]
    whole = b"".join(len(one).to_bytes(8, "big") + one for one in said)
    script = f"import socket; channel = socket.socket(fileno=0); channel.sendall({whole!r}); channel.recv(1)"
    patch.setattr(tables, "CHILD", (sys.executable, "-c", script))


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

    def test_a_picture_or_mask_that_is_too_large_never_leaves_the_child(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        came = []

        def listening(channel: Any, most_bytes: int) -> bytes:
            came.append(receive(channel, most_bytes))
            return came[-1]

        monkeypatch.setattr(tables, "receive", listening)
        large = bytes(2 * MEGABYTE)
        columns: dict[str, list[object]] = {
            "image": [{"bytes": large}, {"bytes": b"b"}],
            "mask": [{"bytes": b"a"}, {"bytes": large}],
        }
        found = rows_of(written(tmp_path, columns), Limits(entry_bytes=MEGABYTE))
        assert [(row.picture, row.reason) for row in found] == [(None, "larger than 1 MB"), (b"b", None)]
        assert [(row.mask, row.mask_reason) for row in found] == [(b"a", None), (None, "larger than 1 MB")]
        assert max(map(len, came)) < MEGABYTE

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
        taken_over(patch, b"{}x")
        with pytest.raises(Unusable, match="more time or memory"):
            rows_of(path)

    @pytest.mark.parametrize(
        "messages",
        [
            [{"kind": "pictures"}],
            [PICTURES | {"image": 1}],
            [PICTURES | {"more": 1}],
            [LINES],
            [ROW, b"x", b""],
            [END],
            [[]],
            [{"refused": {"why": 1}}],
        ],
    )
    def test_one_that_is_taken_over_costs_its_file(
        self, misbehaving: tuple[pytest.MonkeyPatch, Path], messages: list[object]
    ) -> None:
        patch, path = misbehaving
        taken_over(patch, *messages)
        with pytest.raises(Unusable, match="more time or memory"):
            rows_of(path)

    @pytest.mark.parametrize(
        "messages",
        [
            [{"number": 2}],
            [{**ROW, "number": 2, "repeats": "many"}, b"x", b""],
            [{**ROW, "number": 2, "text": 5}, b"x", b""],
            [{**ROW, "number": 2, "picture_bytes": -1}, b"x", b""],
            [{**ROW, "number": 2, "picture_bytes": 2}, b"x", b""],
            [b'{"number": 2, "path": "\\ud800"}'],
            [ROW, b"x", b""],
            [PICTURES],
            [LINE],
        ],
    )
    def test_one_that_is_taken_over_later_costs_what_comes_after(
        self, misbehaving: tuple[pytest.MonkeyPatch, Path], messages: list[object]
    ) -> None:
        patch, path = misbehaving
        taken_over(patch, PICTURES, ROW, b"x", b"", *messages)
        first, rest = rows_of(path)
        assert (first.picture, first.mask, first.reason) == (b"x", None, None)
        assert "from here on it is not read" in str(rest.reason)

    @pytest.mark.parametrize(
        "messages",
        [
            [END],
            [PICTURES],
            [LINES, {"number": 1}],
            [LINES, {"number": 1, "values": {"file_name": ["a.png"]}}],
            [LINES, {"number": -1, "values": {}}],
            [LINES, LINE, LINE],
            [LINES, LINE, ROW, b"x", b""],
        ],
    )
    def test_one_that_is_taken_over_costs_its_lines(
        self, misbehaving: tuple[pytest.MonkeyPatch, Path], messages: list[object]
    ) -> None:
        patch, path = misbehaving
        taken_over(patch, *messages)
        with pytest.raises(Unusable, match="more time or memory"):
            table_lines(path)

    def test_the_messages_these_tests_break_are_good_ones(self, misbehaving: tuple[pytest.MonkeyPatch, Path]) -> None:
        patch, path = misbehaving
        taken_over(patch, PICTURES, ROW, b"x", b"", {**ROW, "number": 2}, b"y", b"", END)
        assert [row.picture for row in rows_of(path)] == [b"x", b"y"]
        taken_over(patch, LINES, LINE, {**LINE, "number": 2}, END)
        assert [line.number for line in table_lines(path).lines] == [1, 2]
