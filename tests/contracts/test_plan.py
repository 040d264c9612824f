from __future__ import annotations

from typing import Any

import pytest

from contracts.base import BaseDescription, Family
from contracts.dataset import DatasetSummary
from contracts.fitting import ALLOWANCE_BYTES, fit, fits, parse_bytes
from contracts.plan import Plan, make_plan, step_shape
from contracts.train import TrainConfig, parse_config
from tests.profiles import small_profile

BASE = BaseDescription(
    family=Family.SDXL,
    identity="a" * 64,
    vae_identity="b" * 64,
    native_px=1024,
    prediction_type="epsilon",
    latent_channels=4,
    vae_factor=8,
    profile=small_profile(),
)
DATA = DatasetSummary(digest="c" * 64, train_sizes={"1024x1024": 5, "512x512": 2}, train_images=7, held_out_images=1)
SETTINGS: dict[str, Any] = {"batch_size": 4, "precision": "bf16", "lora": {"rank": 8}}


def config(**changes: Any) -> TrainConfig:
    return parse_config(SETTINGS, changes)


def planned(given: TrainConfig) -> Plan:
    return make_plan(given, BASE, DATA)


class TestMakePlan:
    def test_adds_up_the_parts_of_a_lora(self) -> None:
        plan = planned(config())
        trained = 8 * (4 * 100 + 2 * 200)
        assert plan.trainable_parameters == trained
        assert plan.memory.weights == 1_000_000 * 2
        assert plan.memory.adapters == plan.memory.gradients == trained * 4
        assert plan.memory.optimizer == trained * 8
        assert plan.memory.activations == 4 * 1_000_000 * 2
        assert plan.memory.vae == 0
        assert plan.memory_total == 2_000_000 + trained * 16 + 8_000_000

    def test_ranks_by_pattern_and_dora_are_counted_layer_by_layer(self) -> None:
        given = config(**{"lora.rank_pattern": {"*.proj_in": 2}, "lora.dora": True})
        assert planned(given).trainable_parameters == 8 * 4 * 100 + 2 * 2 * 200 + 4 * 50 + 2 * 100

    def test_a_text_encoder_in_training_stays_with_the_other_one(self) -> None:
        plain, both = planned(config()), planned(config(**{"lora.text_encoder": {"rank": 4}}))
        assert both.trainable_parameters == plain.trainable_parameters + 4 * 50
        assert both.memory.weights == plain.memory.weights + 10_000 * 2
        assert both.memory.activations == plain.memory.activations + 4 * 40_000 * 2

    def test_weights_in_bf16_updated_in_the_backward_pass_hold_no_gradient(self) -> None:
        settings = {"full.master_weights": "bf16-stochastic", "full.fused_backward": True}
        plan = planned(config(method="full", **settings, **{"optimizer.max_grad_norm": None}))
        assert (plan.memory.weights, plan.memory.gradients) == (2_000_000, 0)
        assert plan.memory.optimizer == 8_000_000

    def test_text_encoders_trained_whole_are_counted_in_every_part(self) -> None:
        whole = {"method": "full", "full.text_encoder_2": {"learning_rate": 1e-6}}
        plain, both = planned(config(method="full")), planned(config(**whole))
        assert both.trainable_parameters == plain.trainable_parameters + 7_000
        # Both encoders stay, in fp32 as all weights are; only the part of one that is trained has a gradient.
        assert both.memory.weights == plain.memory.weights + 10_000 * 4
        assert both.memory.gradients == plain.memory.gradients + 7_000 * 4
        assert both.memory.optimizer == plain.memory.optimizer + 7_000 * 8
        # Autocast: a step in fp32, and a copy of what is trained in the compute type.
        assert both.memory.activations == plain.memory.activations + 4 * 60_000 * 4 + 7_000 * 2
        rows = planned(config(**whole, optimizer={"kind": "adafactor"})).memory.optimizer
        assert rows == (5_000 + 700) * 4

    def test_the_disk_holds_the_whole_model_once_more_for_each_export(self) -> None:
        without = planned(config(method="full", **{"export.layouts": []}))
        with_both = planned(config(method="full"))
        assert with_both.disk_bytes == without.disk_bytes + 2 * (1_000_000 + 10_000 + 10_000) * 2

    def test_full_training_holds_its_weights_in_fp32(self) -> None:
        plan = planned(config(method="full", precision="fp32"))
        assert plan.trainable_parameters == 1_000_000
        assert (plan.memory.weights, plan.memory.adapters) == (4_000_000, 0)
        assert plan.memory_total == 16_000_000 + 4 * 1_000_000 * 4

    def test_previews_need_the_vae_beside_the_model(self) -> None:
        plan = planned(config(gradient_checkpointing=True, **{"preview.prompts": ["a cat"]}))
        # One picture is decoded in fp32; sampling it guided takes two images in the compute type.
        assert plan.memory.vae == 10_000 * 4 + 2 * 50_000 * 2

    def test_the_peak_is_encoding_where_that_takes_more(self) -> None:
        huge = BASE.model_copy(update={"profile": small_profile().model_copy(update={"vae_parameters": 10**9})})
        assert make_plan(config(), huge, DATA).memory_total == 10**9 * 4 + 20_000 * 4

    @pytest.mark.parametrize(
        ("kind", "bytes_each"), [("adamw", 8), ("adamw8bit", 2 + 2 / 64), ("lion8bit", 1 + 1 / 64)]
    )
    def test_the_optimisers_state_is_that_of_its_kind(self, kind: str, bytes_each: float) -> None:
        given = parse_config(SETTINGS | {"optimizer": {"kind": kind}})
        assert planned(given).memory.optimizer == 6400 * bytes_each

    def test_counts_images_buckets_and_epochs(self) -> None:
        plan = planned(config(steps=6))
        assert (plan.images, plan.held_out_images, plan.upscaled_images) == (7, 1, 2)
        assert plan.buckets == {"1024x1024": 7}
        assert plan.epochs == 3.0


class TestStepShape:
    @pytest.mark.parametrize(
        "changes",
        [
            {"quantize": "nf4"},
            {"lora.dora": True},
            {"lora.dropout": 0.1},
            {"lora.text_encoder": {}},
            {"lora.text_encoder": {}, "lora.text_encoder_2": {}},
            {"method": "full"},
            {"method": "full", "full.text_encoder_2": {}},
        ],
    )
    def test_is_another_where_a_step_takes_another_time(self, changes: dict[str, Any]) -> None:
        ways = [{}, {"lora.text_encoder": {}}, {"method": "full"}]
        others = [step_shape(config(**way)) for way in ways if way != changes]
        assert step_shape(config(**changes)) not in others

    def test_is_the_same_whatever_is_learned_how_fast(self) -> None:
        full = {"method": "full", "full.text_encoder": {}}
        assert step_shape(config(**full)) == step_shape(config(**full, **{"full.text_encoder.learning_rate": 1e-5}))


class TestFit:
    def test_the_gentlest_change_that_does_is_the_only_one(self) -> None:
        given = config()
        half = planned(given).memory_total - 4 * 1_000_000
        found = fit(given, half + ALLOWANCE_BYTES, planned, 1024)
        assert found.fits
        assert found.overrides == {"batch_size": 2, "gradient_accumulation_steps": 2}
        assert fits(planned(found.applied(given)), half + ALLOWANCE_BYTES)

    def test_says_each_change_and_what_it_comes_to(self) -> None:
        given = config()
        limit = 2_000_000 + 6400 * 16 + 2 * 100_000 + ALLOWANCE_BYTES
        found = fit(given, limit, planned, 1024)
        assert found.fits
        assert found.overrides["gradient_checkpointing"] is True
        assert [change.memory_total for change in found.changes] == sorted(
            (change.memory_total for change in found.changes), reverse=True
        )
        assert planned(found.applied(given)).memory_total == found.changes[-1].memory_total

    @pytest.mark.parametrize("full", [{"fused_backward": True}, {"master_weights": "bf16-stochastic"}])
    def test_takes_fewer_pictures_where_gradients_cannot_be_added_up(self, full: dict[str, Any]) -> None:
        given = parse_config(SETTINGS | {"method": "full", "full": full, "optimizer": {"max_grad_norm": None}})
        found = fit(given, planned(given).memory_total - 1 + ALLOWANCE_BYTES, planned, 1024)
        assert found.fits
        assert found.overrides == {"batch_size": 2}

    def test_says_when_nothing_helps(self) -> None:
        assert not fit(config(), ALLOWANCE_BYTES + 1_000_000, planned, 1024).fits

    def test_changes_nothing_that_fits(self) -> None:
        assert fit(config(), 2**40, planned, 1024).changes == ()


class TestParseBytes:
    @pytest.mark.parametrize(("text", "count"), [("8GB", 2**33), ("12.5 GiB", 12.5 * 2**30), ("500mb", 500 * 2**20)])
    def test_reads_sizes_as_they_are_on_cards(self, text: str, count: float) -> None:
        assert parse_bytes(text) == count

    @pytest.mark.parametrize("text", ["8", "GB", "eight GB", "-1GB", "8 parsecs"])
    def test_refuses_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="no amount of memory"):
            parse_bytes(text)


class TestPlansOfOlderVersions:
    def test_are_still_read(self) -> None:
        plan = make_plan(parse_config(SETTINGS), BASE, DATA).model_dump(mode="json")
        for unknown_then in ("vae", "encoding"):
            del plan["memory"][unknown_then]
        del plan["much_upscaled_images"]
        assert Plan.model_validate(plan).memory.vae == 0
