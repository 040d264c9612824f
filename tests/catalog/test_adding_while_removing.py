"""Whoever adds to a dataset in the instant it is removed is told that it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from catalog import removing
from catalog.datasets import fetches, service
from catalog.datasets.fetches import Wanted
from catalog.db import Database
from catalog.uploads import service as uploads
from catalog.uploads.service import Announced
from contracts.failures import FailureCode, PatinaError
from tests.catalog.conftest import OWNER, Make

WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")

ADDING: dict[str, Callable[[Session, str], Any]] = {
    "begin": lambda session, dataset: uploads.begin(session, OWNER, Announced(dataset, "a.png", 9, None, ""), 60),
    "offer": lambda session, dataset: uploads.offer(session, OWNER, dataset, "a.png", "uploads/x", 9, "0" * 64),
    "refuse": lambda session, dataset: service.note_refused(session, OWNER, dataset, "a.exe", 9, "why"),
    "fetch": lambda session, dataset: fetches.offer(session, OWNER, dataset, [Wanted("https://example.com/a")]),
}


@pytest.mark.parametrize("adding", ADDING)
@pytest.mark.parametrize("queued", [False, True], ids=["quiet", "with-a-job"])
def test_it_is_not_found_once_the_removal_is_through(database: Database, make: Make, adding: str, queued: bool) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    dataset = make.dataset(images=0)
    if queued:
        with database.session() as session:
            for add in ("offer", "fetch"):
                ADDING[add](session, dataset)
    told: list[BaseException] = []

    def add() -> None:
        try:
            with database.session() as session:
                ADDING[adding](session, dataset)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            told.append(error)

    with database.session() as session:
        removing.remove_dataset(session, OWNER, dataset)
        thread = threading.Thread(target=add)
        thread.start()
        while thread.is_alive() and not _anybody_waits(database):
            thread.join(0.01)
    thread.join()
    (error,) = told
    assert isinstance(error, PatinaError), error
    assert error.code is FailureCode.NOT_FOUND


def _anybody_waits(database: Database) -> bool:
    with database.reading() as session:
        return bool(session.scalar(WAITING))
