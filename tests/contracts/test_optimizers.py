"""Optimiser settings: what is left out is the kind's own, and what does not fit is said all at once."""

from __future__ import annotations

from typing import get_args

import pytest

from contracts.failures import InvalidInput
from contracts.optimizers import DEFAULTS, STATE_BYTES, OptimizerKind, OptimizerSettings
from contracts.train import parse_config

KINDS: tuple[OptimizerKind, ...] = get_args(OptimizerKind)


class TestDefaults:
    @pytest.mark.parametrize("kind", KINDS)
    def test_are_the_kinds_own_and_come_back_from_their_own_json(self, kind: OptimizerKind) -> None:
        settings = OptimizerSettings(kind=kind)
        assert {name: getattr(settings, name) for name in DEFAULTS[kind]} == DEFAULTS[kind]
        assert OptimizerSettings.model_validate_json(settings.model_dump_json()) == settings
        assert STATE_BYTES[kind] >= 0

    def test_give_way_to_what_is_given(self) -> None:
        settings = OptimizerSettings.model_validate({"kind": "lion8bit", "learning_rate": 3e-5})
        assert (settings.learning_rate, settings.betas, settings.weight_decay) == (3e-5, (0.9, 0.99), 0.05)
        assert OptimizerSettings(max_grad_norm=None).max_grad_norm is None


class TestWhatDoesNotFit:
    def test_is_refused_with_every_reason_at_its_field(self) -> None:
        given = {"kind": "adafactor", "betas": [0.9, 0.9], "schedule": "cosine-with-restarts", "power": 2.0}
        with pytest.raises(InvalidInput) as caught:
            parse_config({"optimizer": given})
        assert {error.pointer: error.message for error in caught.value.errors} == {
            "/optimizer/betas": "adafactor has none: leave it out",
            "/optimizer/power": "belongs to the schedule polynomial, not to cosine-with-restarts",
            "/optimizer/cycles": "is needed by the schedule cosine-with-restarts",
        }

    def test_two_warm_ups_are_one_too_many(self) -> None:
        with pytest.raises(InvalidInput, match="give one of them"):
            parse_config({"optimizer": {"warmup_steps": 3, "warmup_share": 0.1}})

    def test_adamw_needs_its_betas(self) -> None:
        with pytest.raises(InvalidInput, match="adamw needs it"):
            parse_config({"optimizer": {"betas": None}})
