"""Registered weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalog.db import Database
from catalog.registry import service as registry
from catalog.registry.service import Publication
from catalog.runs import progress
from contracts.failures import FailureCode, InvalidInput, PatinaError


def _publication(make: Any, **changes: Any) -> Publication:
    return Publication(make.header(**changes), "runs/r/1/w.safetensors", "c" * 64, 123, {"held_out_loss": 0.5})


def _resolve(database: Database, owner: str, reference: str) -> int:
    with database.reading() as session:
        return registry.resolve(session, owner, reference).version


class TestPublish:
    def test_ties_weights_to_run_base_and_dataset(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            weights = registry.publish(session, claim, _publication(make))
        assert (weights.name, weights.version, weights.trigger_word) == ("style", 1, "sks")
        assert (weights.run_id, weights.base_identity) == (run.id, run.base_identity)
        assert (weights.dataset_digest, weights.dataset_version) == (run.dataset_digest, 1)
        assert weights.header["config_digest"] == "d" * 64
        with database.reading() as session:
            assert [row.id for row in registry.of_run(session, owner, run.id)] == [weights.id]

    def test_twice_registers_once(self, database: Database, make: Any, owner: str) -> None:
        _, claim = make.training()
        seen = []
        for _ in range(2):
            with database.session() as session:
                seen.append(registry.publish(session, claim, _publication(make)).id)
        assert seen[0] == seen[1]
        with database.reading() as session:
            assert len(registry.list_versions(session, owner, "style")) == 1

    def test_by_the_next_attempt_registers_once_too(self, database: Database, make: Any, owner: str) -> None:
        _, claim = make.training()
        with database.session() as session:
            first = registry.publish(session, claim, _publication(make)).id
            progress.give_back(session, claim)
        again = make.claim("train")
        with database.session() as session:
            progress.begin(session, again, "cpu", keeps_directory=False)
            assert registry.publish(session, again, _publication(make)).id == first

    def test_each_run_makes_the_next_version(self, make: Any) -> None:
        assert [make.weights().version for _ in range(3)] == [1, 2, 3]
        assert make.weights(name="other").version == 1

    def test_two_runs_at_once_get_two_versions(
        self, database: Database, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make.weights()
        _, claim = make.training()
        answers = iter([0, 1])  # the first is from before the other run's commit
        monkeypatch.setattr(registry.repository, "last_version", lambda *_: next(answers))
        with database.session() as session:
            assert registry.publish(session, claim, _publication(make)).version == 2
        assert next(answers, None) is None

    def test_a_file_of_another_base_is_refused(self, database: Database, make: Any) -> None:
        _, claim = make.training()
        with database.session() as session, pytest.raises(PatinaError) as caught:
            registry.publish(session, claim, _publication(make, base_identity="f" * 64))
        assert caught.value.code == FailureCode.BASE_MISMATCH


class TestResolve:
    def test_by_name_number_and_alias(self, database: Database, make: Any, owner: str) -> None:
        for _ in range(3):
            make.weights()
        with database.session() as session:
            registry.set_alias(session, owner, "style", "shown", 2)
        seen = [_resolve(database, owner, word) for word in ("style", "style@latest", "style@1", "style@shown")]
        assert seen == [3, 3, 1, 2]

    @pytest.mark.parametrize("reference", ["gone", "gone@1", "style@9", "style@nobody", "style@"])
    def test_says_which_part_is_not_there(self, database: Database, make: Any, owner: str, reference: str) -> None:
        make.weights()
        if reference == "style@":
            assert _resolve(database, owner, reference) == 1
            return
        with pytest.raises(PatinaError) as caught:
            _resolve(database, owner, reference)
        assert caught.value.code == FailureCode.NOT_FOUND
        assert reference.split("@")[0] in caught.value.message

    def test_best_has_the_lowest_held_out_loss_among_its_like(self, database: Database, make: Any, owner: str) -> None:
        dataset_id = make.frozen()
        make.weights(metrics={"held_out_loss": 0.01})  # of another dataset: not comparable
        for loss in (0.3, 0.2, 0.4):
            make.weights(dataset=dataset_id, metrics={"held_out_loss": loss})
        assert _resolve(database, owner, "style@best") == 3

    def test_best_needs_a_held_out_loss(self, database: Database, make: Any, owner: str) -> None:
        make.weights()
        with pytest.raises(PatinaError) as caught:
            _resolve(database, owner, "style@best")
        assert "held-out" in caught.value.hint


class TestAliases:
    def test_move_and_can_be_removed(self, database: Database, make: Any, owner: str) -> None:
        rows = [make.weights(metrics={"held_out_loss": loss}, dataset=None) for loss in (0.5, 0.4)]
        for version in (1, 2):
            with database.session() as session:
                registry.set_alias(session, owner, "style", "shown", version)
        with database.session() as session:
            assert registry.aliases_of(session, owner, rows) == {
                rows[0].id: [],
                rows[1].id: ["latest", "best", "shown"],
            }
            registry.remove_alias(session, owner, "style", "shown")
            with pytest.raises(PatinaError):
                registry.remove_alias(session, owner, "style", "shown")
            assert registry.aliases_of(session, owner, rows)[rows[1].id] == ["latest", "best"]

    @pytest.mark.parametrize("alias", ["latest", "best", "3", "", "a b", "x" * 65, "a\n"])
    def test_refuses_what_is_automatic_or_could_be_a_version(
        self, database: Database, make: Any, owner: str, alias: str
    ) -> None:
        make.weights()
        with database.session() as session, pytest.raises(InvalidInput):
            registry.set_alias(session, owner, "style", alias, 1)

    def test_of_a_version_that_is_not_there_is_refused(self, database: Database, make: Any, owner: str) -> None:
        make.weights()
        with database.session() as session, pytest.raises(PatinaError) as caught:
            registry.set_alias(session, owner, "style", "shown", 2)
        assert caught.value.code == FailureCode.NOT_FOUND


class TestCheckBase:
    def test_accepts_the_base_and_names_both_identities_of_another(self, make: Any) -> None:
        weights = make.weights()
        registry.check_base(weights, make.base())
        with pytest.raises(PatinaError) as caught:
            registry.check_base(weights, make.base("other", identity="f" * 64))
        assert caught.value.code == FailureCode.BASE_MISMATCH
        assert "a" * 64 in caught.value.message
        assert "f" * 64 in caught.value.message


class TestAnotherOwner:
    def test_sees_nothing_and_has_a_name_space_of_their_own(self, database: Database, make: Any) -> None:
        weights = make.weights()
        attempts: list[Callable[[Any], object]] = [
            lambda session: registry.resolve(session, "bob", "style"),
            lambda session: registry.read(session, "bob", weights.id),
            lambda session: registry.list_versions(session, "bob", "style"),
            lambda session: registry.set_alias(session, "bob", "style", "mine", 1),
        ]
        for attempt in attempts:
            with database.session() as session, pytest.raises(PatinaError) as caught:
                attempt(session)
            assert caught.value.code == FailureCode.NOT_FOUND
        with database.reading() as session:
            assert registry.list_weights(session, "bob").items == []
            assert registry.of_run(session, "bob", weights.run_id or "") == []
        assert make.weights(owner="bob").version == 1


class TestListWeights:
    def test_newest_first_and_by_name(self, database: Database, make: Any, owner: str) -> None:
        for name in ("style", "other", "style"):
            make.weights(name=name)
        with database.reading() as session:
            every = registry.list_weights(session, owner).items
            named = registry.list_weights(session, owner, name="style").items
        assert [(row.name, row.version) for row in every] == [("style", 2), ("other", 1), ("style", 1)]
        assert [row.version for row in named] == [2, 1]
