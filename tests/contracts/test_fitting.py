from __future__ import annotations

from typing import Any

import pytest

from contracts.dataset import DatasetSummary
from contracts.fitting import ALLOWANCE_BYTES, Fitting, does_not_fit, fits
from contracts.memory import MemoryParts
from contracts.plan import fitted, memory_of
from contracts.train import TrainConfig, parse_config
from tests.profiles import small_base

BASE = small_base()
DATA = DatasetSummary(digest="c" * 64, train_sizes={"1024x1024": 7}, train_images=7, held_out_images=1)
SETTINGS: dict[str, Any] = {"batch_size": 4, "precision": "bf16", "lora": {"rank": 8}}
TRAINED = 8 * 512 + 4 * 1024
"""Numbers that adapters of rank 8 take."""


def config(**changes: Any) -> TrainConfig:
    return parse_config(SETTINGS, changes)


def memory(given: TrainConfig) -> MemoryParts:
    return memory_of(given, BASE, DATA)


def to_fit(given: TrainConfig, memory_bytes: int) -> Fitting:
    found = fitted(given, BASE, DATA, memory_bytes)
    assert found is not None
    return found


class TestFit:
    def test_the_gentlest_change_that_does_is_the_only_one(self) -> None:
        given = config()
        half = memory(given).total - 4 * 1_000_000
        found = to_fit(given, half + ALLOWANCE_BYTES)
        assert found.fits
        assert found.overrides == {"batch_size": 2, "gradient_accumulation_steps": 2}
        assert fits(memory(found.applied(given)).total, half + ALLOWANCE_BYTES)

    def test_of_a_setting_changed_in_steps_no_more_is_kept_than_is_needed(self) -> None:
        given = config()
        # Halving the batch twice does not do; with checkpointing beside it once is enough.
        limit = memory(given).total - 8_000_000 + 2 * 100_000 * 2 + ALLOWANCE_BYTES
        assert to_fit(given, limit).overrides == {
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "gradient_checkpointing": True,
        }

    def test_a_change_that_shows_only_beside_a_later_one_is_made(self) -> None:
        given = config(gradient_checkpointing=True, **{"held_out.timesteps": 10})
        # Measuring takes 1 000 000, and with one timestep a step of four pictures is still 800 000.
        limit = memory(given).total - 500_000 + ALLOWANCE_BYTES
        found = to_fit(given, limit)
        assert found.overrides == {"batch_size": 2, "gradient_accumulation_steps": 2, "held_out.timesteps": 1}

    def test_says_each_change_and_what_it_comes_to(self) -> None:
        given = config()
        limit = 2_000_000 + TRAINED * 16 + 2 * 100_000 + ALLOWANCE_BYTES
        found = to_fit(given, limit)
        assert found.fits
        assert found.overrides["gradient_checkpointing"] is True
        assert [change.memory_total for change in found.changes] == sorted(
            (change.memory_total for change in found.changes), reverse=True
        )
        assert memory(found.applied(given)).total == found.changes[-1].memory_total

    @pytest.mark.parametrize("full", [{"fused_backward": True}, {"master_weights": "bf16-stochastic"}])
    def test_takes_fewer_pictures_where_gradients_cannot_be_added_up(self, full: dict[str, Any]) -> None:
        given = parse_config(SETTINGS | {"method": "full", "full": full, "optimizer": {"max_grad_norm": None}})
        found = to_fit(given, memory(given).total - 1 + ALLOWANCE_BYTES)
        assert found.fits
        assert found.overrides == {"batch_size": 2}

    def test_accumulates_no_more_than_a_run_may(self) -> None:
        given = config(gradient_accumulation_steps=512)
        found = to_fit(given, ALLOWANCE_BYTES + 500_000)
        assert not found.fits
        assert found.overrides["gradient_accumulation_steps"] == 1024
        assert "batch_size=2 gradient_accumulation_steps=1024" in does_not_fit(10**7, 10**6, found).hint

    def test_packs_the_frozen_weights_before_it_makes_adapters_smaller(self) -> None:
        given = config(gradient_checkpointing=True, batch_size=1, **{"held_out.timesteps": 1})
        # Half of the weights are packed: of two bytes each, one is saved or one and a half, less what is dense.
        whole = memory(given).total
        for saved, kind in ((150_000, "int8"), (600_000, "nf4")):
            found = to_fit(given, whole - saved + ALLOWANCE_BYTES)
            assert found.fits
            assert found.overrides["quantize"] == kind
            assert "lora.rank" not in found.overrides

    def test_offers_no_change_that_contradicts_another_setting(self) -> None:
        settings = {"full.master_weights": "bf16-stochastic", "full.fused_backward": True}
        given = config(method="full", **settings, **{"optimizer.max_grad_norm": None})
        found = to_fit(given, memory(given).total - 1 + ALLOWANCE_BYTES)
        assert found.fits
        assert "gradient_accumulation_steps" not in found.overrides
        assert "quantize" not in found.overrides

    def test_says_when_nothing_helps(self) -> None:
        found = to_fit(config(), ALLOWANCE_BYTES + 500_000)
        assert not found.fits
        assert "would not fit even with" in does_not_fit(10**7, 10**6, found).hint

    def test_changes_nothing_that_fits(self) -> None:
        assert fitted(config(), BASE, DATA, 2**40) is None

    def test_words_of_a_limit_below_what_is_kept_free_make_sense(self) -> None:
        found = does_not_fit(100 * 2**20, 50 * 2**20, Fitting(changes=(), fits=False))
        assert found.message == (
            "The run's tensors take 100 MiB, and 1 GiB is kept free beside them: more than the 50 MiB there are."
        )
