"""The one place where a run changes its status."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.db import Database
from catalog.runs.status import ALLOWED, switch_status
from contracts.failures import FailureCode, PatinaError
from contracts.run import FINISHED, RUN_REASONS, RunReason, RunStatus


class TestSwitchStatus:
    def test_notes_when_it_started_and_finished(self, database: Database, make: Any) -> None:
        run = make.run()
        seen = []
        with database.session() as session:
            run = session.merge(run)
            for status in (RunStatus.PREPARING, RunStatus.TRAINING, RunStatus.PUBLISHING, RunStatus.SUCCEEDED):
                switch_status(session, run, status, RunReason.WORKING)
                seen.append((run.started_at is not None, run.finished_at is not None))
        assert seen == [(True, False)] * 3 + [(True, True)]

    def test_refuses_what_does_not_follow(self, database: Database, make: Any) -> None:
        run = make.run()
        with database.session() as session, pytest.raises(PatinaError) as caught:
            switch_status(session, session.merge(run), RunStatus.SUCCEEDED, RunReason.COMPLETED)
        assert caught.value.code == FailureCode.CONFLICT
        assert "queued cannot become succeeded" in caught.value.message

    def test_nothing_follows_an_end_but_going_on_after_one_that_was_none(self) -> None:
        assert set(ALLOWED) == set(RunStatus)
        assert {status: set(ALLOWED[status]) for status in FINISHED} == {
            RunStatus.SUCCEEDED: set(),
            RunStatus.FAILED: {RunStatus.QUEUED},
            RunStatus.CANCELLED: {RunStatus.QUEUED},
        }

    def test_every_reason_has_words(self) -> None:
        assert set(RUN_REASONS) == set(RunReason)
