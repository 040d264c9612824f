"""Lists by page."""

from __future__ import annotations

import base64

import pytest
from sqlalchemy import select

from catalog.datasets.models import Dataset
from catalog.db import Database
from catalog.paging import Page, page
from contracts.failures import InvalidInput


def _add(database: Database, count: int, created_at: float = 1000.25) -> None:
    with database.session() as session:
        session.add_all(
            Dataset(id=f"ds_{i}", owner="ada", name=f"{created_at}-{i}", created_at=created_at) for i in range(count)
        )


def _page(database: Database, cursor: str | None = None, limit: int = 2) -> Page[Dataset]:
    with database.reading() as session:
        return page(session, select(Dataset), Dataset, cursor, limit)


class TestPage:
    def test_shows_every_row_once_even_when_all_are_of_one_moment(self, database: Database) -> None:
        _add(database, 5)
        seen: list[str] = []
        cursor = None
        for _ in range(3):
            found = _page(database, cursor)
            seen += [row.id for row in found.items]
            cursor = found.next_cursor
        assert seen == ["ds_4", "ds_3", "ds_2", "ds_1", "ds_0"]
        assert cursor is None

    def test_rows_added_meanwhile_neither_repeat_nor_hide_others(self, database: Database) -> None:
        _add(database, 3)
        first = _page(database)
        with database.session() as session:
            session.add(Dataset(id="ds_new", owner="ada", name="new", created_at=2000.0))
        assert [row.id for row in _page(database, first.next_cursor).items] == ["ds_0"]

    def test_a_full_last_page_has_no_next(self, database: Database) -> None:
        _add(database, 2)
        assert _page(database).next_cursor is None

    @pytest.mark.parametrize("cursor", ["nonsense", "%%%", "W10", "WzEsMl0gMw", "bnVsbA", "é"])
    def test_refuses_a_cursor_it_did_not_make(self, database: Database, cursor: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            _page(database, cursor)
        assert [error.pointer for error in caught.value.errors] == ["/cursor"]

    @pytest.mark.parametrize(
        "position",
        [
            '["1", "ds_0"]',
            f'[1{"0" * 400}, "ds_0"]',
            '[NaN, "ds_0"]',
            '[1.0, "a\\u0000"]',
            '[1.0, "\\ud800"]',
            "[" * 5000,
        ],
    )
    def test_refuses_what_only_looks_like_a_cursor(self, database: Database, position: str) -> None:
        with pytest.raises(InvalidInput):
            _page(database, base64.urlsafe_b64encode(position.encode()).decode())

    @pytest.mark.parametrize("limit", [0, -1, 201])
    def test_refuses_a_limit_out_of_range(self, database: Database, limit: int) -> None:
        with pytest.raises(InvalidInput):
            _page(database, limit=limit)
