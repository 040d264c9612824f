"""Bases of the instance."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.bases import service as bases
from catalog.bases.service import BaseStatus
from catalog.db import SHARED_OWNER, Database
from catalog.jobs import Kind, LeaseLost, Queue
from contracts.failures import FailureCode, PatinaError


class TestAdd:
    def test_makes_a_base_every_owner_sees(self, database: Database, make: Any) -> None:
        added = make.base("emoji")
        for owner in ("ada", "bob"):
            with database.reading() as session:
                base = bases.read_ready(session, owner, "emoji")
                assert [row.name for row in bases.list_bases(session, owner).items] == ["emoji"]
            assert (base.id, base.owner) == (added.id, SHARED_OWNER)
            assert bases.description_of(base) == make.description()

    def test_of_the_same_weights_again_is_the_same_base_and_may_have_moved(self, database: Database, make: Any) -> None:
        first = make.base("emoji")
        with database.session() as session:
            again = bases.add(session, "emoji", "elsewhere", None, make.description())
        assert (again.id, again.source) == (first.id, "elsewhere")

    def test_of_other_weights_under_the_name_is_refused(self, make: Any) -> None:
        make.base("emoji")
        with pytest.raises(PatinaError) as caught:
            make.base("emoji", identity="f" * 64)
        assert caught.value.code == FailureCode.CONFLICT


class TestRequestAdd:
    def test_is_done_by_the_generate_worker(self, database: Database, make: Any) -> None:
        with database.session() as session:
            asked = bases.request_add(session, "emoji", "bases/emoji", "MIT")
        claim = make.claim(Queue.GENERATE)
        assert (claim.kind, claim.subject_id) == (Kind.BASE_ADD, asked.id)
        with pytest.raises(PatinaError, match="not ready"), database.reading() as session:
            bases.read_ready(session, "ada", "emoji")
        with database.session() as session:
            bases.complete_add(session, claim, make.description())
        with database.reading() as session:
            assert bases.read_ready(session, "ada", "emoji").identity == "a" * 64
        with database.session() as session, pytest.raises(LeaseLost):
            bases.complete_add(session, claim, make.description())

    def test_that_failed_says_why_and_can_be_asked_again(self, database: Database, make: Any) -> None:
        with database.session() as session:
            bases.request_add(session, "emoji", "bases/wrong", None)
        with database.session() as session:
            bases.fail_add(session, _only(make), FailureCode.BASE_UNREADABLE, "It is a picture of a base.")
        with database.session() as session:
            base = bases.read(session, "ada", "emoji")
            assert (base.status, base.failure_message) == (BaseStatus.FAILED, "It is a picture of a base.")
            assert bases.request_add(session, "emoji", "bases/emoji", None).status == BaseStatus.ADDING


class TestRead:
    def test_of_an_unknown_name_tells_those_there_are(self, database: Database, make: Any) -> None:
        with database.reading() as session, pytest.raises(PatinaError, match="none has been added yet") as caught:
            bases.read(session, "ada", "nothing")
        assert caught.value.code == FailureCode.UNKNOWN_BASE
        make.base("emoji")
        make.base("sdxl", identity="f" * 64)
        with database.reading() as session, pytest.raises(PatinaError, match=r"there are: emoji, sdxl\."):
            bases.read(session, "ada", "nothing")


class TestOnlyBase:
    def test_is_none_when_there_is_a_choice(self, database: Database, make: Any) -> None:
        seen = []
        for name in ("emoji", "sdxl"):
            make.base(name, identity=name[0] * 64)
            with database.reading() as session:
                only = bases.only_base(session, "ada")
            seen.append(only.name if only else None)
        assert seen == ["emoji", None]


class TestFindByIdentity:
    def test_finds_exactly_these_weights(self, database: Database, make: Any) -> None:
        make.base("emoji")
        with database.reading() as session:
            found = bases.find_by_identity(session, "ada", "a" * 64)
            assert found is not None
            assert found.name == "emoji"
            assert bases.find_by_identity(session, "ada", "f" * 64) is None


def _only(make: Any) -> Any:
    return make.claim(Queue.GENERATE)
