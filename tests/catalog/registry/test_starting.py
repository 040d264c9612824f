"""Runs that start from registered weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.db import Database
from catalog.registry.starting import starting_point
from catalog.runs import service as runs
from contracts.failures import FailureCode, InvalidInput, PatinaError
from contracts.run import RunRequest

MADE_SO = {"lora.rank": 8, "lora.alpha": 8.0, "lora.targets": "attn"}


@pytest.fixture
def ask(database: Database, make: Any, recipes: Path) -> Any:
    """Create a run of an owner on a base from the weights that are named."""
    dataset = make.frozen()

    def ask(owner: str, reference: str, base: str = "emoji", made_so: Any = MADE_SO, **overrides: Any) -> runs.Run:
        given = made_so | overrides | {"init_from": reference}
        request = RunRequest(dataset=dataset, base=base, recipe="demo", overrides=given)
        with database.session() as session:
            return runs.create(session, owner, request, recipes, starting_point)

    return ask


def refusal(ask: Any, *given: Any, **more: Any) -> PatinaError:
    with pytest.raises(PatinaError) as caught:
        ask(*given, **more)
    return caught.value


class TestStartingPoint:
    def test_is_pinned_when_the_run_is_created_so_that_later_versions_change_nothing(
        self, make: Any, ask: Any, owner: str
    ) -> None:
        make.weights()
        run = ask(owner, "style@latest")
        make.weights()
        assert runs.config_of(run).init_from == "style@1"
        assert runs.config_of(ask(owner, "style")).init_from == "style@2"
        assert run.config_digest == runs.config_of(run).digest()

    def test_weights_made_in_another_way_are_refused_with_every_difference(
        self, make: Any, ask: Any, owner: str
    ) -> None:
        make.weights()
        error = refusal(ask, owner, "style@1", **{"lora.rank": 4, "lora.targets": "attn-ff"})
        assert error.code is FailureCode.CONFLICT
        assert "rank was 8, is 4" in error.message
        assert "targets was attn, is attn-ff" in error.message

    def test_full_weights_with_a_text_encoder_are_refused_to_a_run_that_does_not_train_it(
        self, make: Any, ask: Any, owner: str
    ) -> None:
        encoder = {"learning_rate": 1e-6}
        whole = {"method": "full", "rank": None, "alpha": None, "targets": None}
        make.weights(said=whole, method="full", full__text_encoder_2=encoder)
        error = refusal(ask, owner, "style@1", made_so={}, method="full")
        assert isinstance(error, InvalidInput)
        assert error.errors[0].pointer == "/overrides/init_from"
        assert "they have a text_encoder_2 of their own: set full.text_encoder_2 to go on" in error.errors[0].message
        run = ask(owner, "style@1", made_so={}, **{"method": "full", "full.text_encoder_2": encoder})
        assert runs.config_of(run).init_from == "style@1"

    def test_what_is_not_there_is_said_by_name(self, make: Any, ask: Any, owner: str) -> None:
        make.weights()
        assert refusal(ask, owner, "style@9").code is FailureCode.NOT_FOUND
        assert refusal(ask, owner, "nobody").code is FailureCode.NOT_FOUND

    def test_weights_of_another_base_are_refused_with_both_identities(self, make: Any, ask: Any, owner: str) -> None:
        weights = make.weights()
        other = make.base(name="other", identity="e" * 64)
        error = refusal(ask, owner, "style@1", base="other")
        assert error.code is FailureCode.BASE_MISMATCH
        assert weights.base_identity in error.message
        assert other.identity in error.message
