"""API keys."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import select

from catalog.db import Database
from catalog.keys import service as keys
from catalog.keys.models import ApiKey
from catalog.keys.service import NewKey
from contracts.failures import FailureCode, InvalidInput, PatinaError


def _create(database: Database, owner: str = "ada") -> NewKey:
    with database.session() as session:
        return keys.create(session, owner, "laptop")


def _authenticate(database: Database, text: str) -> str:
    with database.reading() as session:
        return keys.authenticate(session, text).owner


class TestCreate:
    def test_tells_the_secret_once_and_keeps_its_hash(self, database: Database) -> None:
        made = _create(database)
        prefix, short_id, secret = made.text.split("_", 2)
        assert (prefix, short_id) == ("patina", made.key.id)
        assert len(secret) >= 43
        with database.reading() as session:
            row = session.scalars(select(ApiKey)).one()
        assert row.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
        assert secret not in str(vars(row))

    @pytest.mark.parametrize("owner", ["", "Ada", "a/b", "../x", "a b", "a\n", "shared"])
    def test_refuses_an_owner_that_could_not_be_part_of_a_blob_key(self, database: Database, owner: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            _create(database, owner)
        assert caught.value.errors[0].pointer == "/owner"


class TestAuthenticate:
    def test_finds_the_owner(self, database: Database) -> None:
        texts = {owner: _create(database, owner).text for owner in ("ada", "bob")}
        assert {owner: _authenticate(database, text) for owner, text in texts.items()} == {"ada": "ada", "bob": "bob"}

    def test_says_the_same_of_every_wrong_key(self, database: Database) -> None:
        made = _create(database)
        other = _create(database, "bob")
        wrong = [
            "",
            "nonsense",
            made.text + "x",
            made.text[:-1],
            made.text.replace("patina_", "patinb_"),
            f"patina_{made.key.id}",
            f"patina_{made.key.id}_",
            f"patina_unknown_{made.text.split('_', 2)[2]}",
            f"patina_{made.key.id}_{other.text.split('_', 2)[2]}",
        ]
        seen = set()
        for text in wrong:
            with pytest.raises(PatinaError) as caught:
                _authenticate(database, text)
            seen.add((caught.value.code, caught.value.message))
        assert len(seen) == 1
        assert seen.pop()[0] == FailureCode.UNAUTHENTICATED

    def test_refuses_a_revoked_key(self, database: Database) -> None:
        made = _create(database)
        with database.session() as session:
            keys.revoke(session, "ada", made.key.id)
        with pytest.raises(PatinaError):
            _authenticate(database, made.text)


class TestRevoke:
    def test_does_not_reach_another_owner_s_key(self, database: Database) -> None:
        made = _create(database)
        with pytest.raises(PatinaError) as caught, database.session() as session:
            keys.revoke(session, "bob", made.key.id)
        assert caught.value.code == FailureCode.NOT_FOUND
        assert _authenticate(database, made.text) == "ada"


class TestListKeys:
    def test_shows_an_owner_their_own(self, database: Database) -> None:
        made = _create(database)
        _create(database, "bob")
        with database.reading() as session:
            assert [key.id for key in keys.list_keys(session, "ada")] == [made.key.id]


class TestNoteUse:
    def test_writes_at_most_once_a_minute(self, database: Database) -> None:
        made = _create(database)
        seen = []
        for _ in range(2):
            with database.session() as session:
                keys.note_use(session, made.key)
            with database.reading() as session:
                seen.append(session.scalars(select(ApiKey.last_used_at)).one())
        assert seen[0] is not None
        assert seen[0] == seen[1]
