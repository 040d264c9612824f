from __future__ import annotations

import math
from typing import Any

import pytest

from contracts.base import StepFootprints
from contracts.dataset import DatasetSummary
from contracts.plan import Plan, make_plan, most_checkpoints, step_shape
from contracts.train import TrainConfig, parse_config
from tests.profiles import footprint, small_base, small_profile

BASE = small_base()
DATA = DatasetSummary(digest="c" * 64, train_sizes={"1024x1024": 5, "512x512": 2}, train_images=7, held_out_images=1)
LIVE = DATA.model_copy(update={"live_captions": True})
LAID_OUT = 8 * 512 + 4 * 1024
"""Numbers that adapters of rank 8 take in the vector that is trained: 400 or 800 each, from a multiple of 256 on."""
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
        assert plan.memory.adapters == plan.memory.gradients == LAID_OUT * 4
        assert plan.memory.optimizer == LAID_OUT * 8
        assert plan.memory.activations == 4 * 1_000_000 * 2
        assert plan.memory.vae == 0
        assert plan.memory_total == 2_000_000 + LAID_OUT * 16 + 8_000_000

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

    @pytest.mark.parametrize(
        ("kind", "packed", "dense"),
        [("nf4", 500_000 * 0.515869140625, 50_000 * 2), ("int8", 500_000 + 4 * 1_000, 50_000 * (2 + 4))],
    )
    def test_a_quantised_base_is_packed_but_for_what_stays_dense(self, kind: str, packed: float, dense: int) -> None:
        plan = planned(config(quantize=kind))
        assert plan.memory.weights == 500_000 * 2 + math.ceil(packed)
        # One layer at a time is dense while it computes; int8 comes by way of fp32.
        assert plan.memory.activations == planned(config()).memory.activations + dense

    @pytest.mark.parametrize(
        ("changes", "way"),
        [
            ({"lora.dora": True}, "attn-ff+dora"),
            ({"lora.dropout": 0.1}, "attn-ff+dropout"),
            ({"lora.dora": True, "lora.dropout": 0.1}, "attn-ff+dora+dropout"),
            ({"method": "full", "precision": "fp32"}, "full"),
            ({"method": "full", "precision": "bf16"}, "full+autocast"),
        ],
    )
    def test_a_step_is_looked_up_by_the_way_it_is_trained(self, changes: dict[str, Any], way: str) -> None:
        profile = small_profile()
        huge = StepFootprints(plain=footprint(10**8), checkpointed=footprint(10**8))
        base = BASE.model_copy(update={"profile": profile.model_copy(update={"steps": profile.steps | {way: huge}})})
        given = config(**changes)
        each = {"fp32": 4, "bf16": 2}[given.precision]
        assert make_plan(given, base, DATA).memory.activations == 4 * 10**8 * each

    def test_small_adapters_are_counted_with_the_gaps_between_them(self) -> None:
        plan = planned(config(**{"lora.rank": 1}))
        # Four layers of 50 and 50, two of 100 and 100: each of the twelve matrices begins at a multiple of 256.
        assert plan.trainable_parameters == 4 * 100 + 2 * 200
        assert plan.memory.adapters == plan.memory.gradients == 12 * 256 * 4

    def test_loading_holds_a_whole_model_twice(self) -> None:
        given = config(
            method="full", gradient_checkpointing=True, batch_size=1, precision="fp32",
            optimizer={"kind": "adafactor"}, **{"full.fused_backward": True},
        )  # fmt: skip
        plan = planned(given)
        assert plan.memory.loading == 2 * 4_000_000
        assert plan.memory_total == plan.memory.loading

    def test_full_training_holds_its_weights_in_fp32(self) -> None:
        plan = planned(config(method="full", precision="fp32"))
        assert plan.trainable_parameters == 1_000_000
        assert (plan.memory.weights, plan.memory.adapters) == (4_000_000, 0)
        assert plan.memory_total == 16_000_000 + 4 * 1_000_000 * 4

    def test_previews_need_the_vae_beside_the_model(self) -> None:
        plan = planned(config(gradient_checkpointing=True, **{"preview.prompts": ["a cat"]}))
        # One picture is decoded in fp32; sampling it guided takes two images in the compute type.
        assert plan.memory.vae == 10_000 * 4 + 2 * 50_000 * 2

    @pytest.mark.parametrize(
        ("changes", "unet", "images", "dense"),
        [
            ({}, 1_000_000 * 2, 4, 0),
            ({"prior.guidance_scale": 1.0}, 1_000_000 * 2, 2, 0),
            ({"method": "full"}, 1_000_000 * 2, 4, 0),
            ({"quantize": "int8"}, 500_000 * 2 + 500_000 + 4 * 1_000, 4, 50_000 * (2 + 4)),
        ],
    )
    def test_making_class_pictures_needs_the_base_and_the_vae(
        self, changes: dict[str, Any], unet: int, images: int, dense: int
    ) -> None:
        given = config(prior={"class_prompt": "a dog", "images": 10}, **changes)
        # Two are sampled together, guided as four.
        assert planned(given).memory.class_pictures == unet + 10_000 * 4 + images * 50_000 * 2 + dense
        enough = DATA.model_copy(update={"class_images": 10})
        assert make_plan(given, BASE, enough).memory.class_pictures == 0

    def test_the_peak_is_making_class_pictures_where_that_takes_more(self) -> None:
        given = config(prior={"class_prompt": "a dog"}, gradient_checkpointing=True, batch_size=1)
        profile = small_profile().model_copy(update={"vae_decoding": footprint(10**7)})
        plan = make_plan(given, BASE.model_copy(update={"profile": profile}), DATA)
        assert plan.memory_total == plan.memory.class_pictures == 2_000_000 + 10_000 * 4 + 4 * 10**7

    def test_with_random_crops_the_vae_stays_and_encodes_beside_the_model(self) -> None:
        profile = small_profile().model_copy(update={"vae_encoding": footprint(10**7)})
        base = BASE.model_copy(update={"profile": profile})
        cached, random = (make_plan(config(**{"data.crop": crop}), base, DATA) for crop in ("center", "random"))
        assert (cached.memory.encoders, random.memory.encoders) == (0, 10_000 * 4)
        assert cached.memory_total == cached.memory.encoding == 10**7 * 4 + 10_000 * 4
        assert make_plan(config(), base, DATA.model_copy(update={"live_latents": True})) == random
        assert random.memory.activations == 10**7 * 4
        assert random.memory_total == 2_000_000 + LAID_OUT * 16 + 10_000 * 4 + 10**7 * 4

    def test_where_captions_vary_too_much_the_text_encoders_stay(self) -> None:
        given = config(method="full", prior={"class_prompt": "a dog"})
        plain, live = planned(given), make_plan(given, BASE, LIVE)
        for part in ("class_pictures", "encoders", "loading"):
            assert getattr(live.memory, part) == getattr(plain.memory, part) + 10_000 * 4
        assert live.memory_total == plain.memory_total + 10_000 * 4
        # And none is on the disk.
        assert live.disk_bytes == plain.disk_bytes - (7 + 1 + 100) * 1_000 * 2

    def test_the_peak_is_encoding_where_that_takes_more(self) -> None:
        huge = BASE.model_copy(update={"profile": small_profile().model_copy(update={"vae_parameters": 10**9})})
        assert make_plan(config(), huge, DATA).memory_total == 10**9 * 4 + 20_000 * 4

    @pytest.mark.parametrize(
        ("kind", "bytes_each"), [("adamw", 8), ("adamw8bit", 2 + 2 / 64), ("lion8bit", 1 + 1 / 64)]
    )
    def test_the_optimisers_state_is_that_of_its_kind(self, kind: str, bytes_each: float) -> None:
        given = parse_config(SETTINGS | {"optimizer": {"kind": kind}})
        assert planned(given).memory.optimizer == LAID_OUT * bytes_each

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
            {"data.crop": "random"},
            {"lora.text_encoder": {}},
            {"lora.text_encoder": {}, "lora.text_encoder_2": {}},
            {"method": "full"},
            {"method": "full", "full.text_encoder_2": {}},
        ],
    )
    def test_is_another_where_a_step_takes_another_time(self, changes: dict[str, Any]) -> None:
        ways = [{}, {"lora.text_encoder": {}}, {"method": "full"}]
        others = [step_shape(config(**way), DATA) for way in ways if way != changes]
        assert step_shape(config(**changes), DATA) not in others

    def test_is_the_same_whatever_is_learned_how_fast(self) -> None:
        full = {"method": "full", "full.text_encoder": {}}
        slower = config(**full, **{"full.text_encoder.learning_rate": 1e-5})
        assert step_shape(config(**full), DATA) == step_shape(slower, DATA)

    def test_is_another_where_captions_are_encoded_in_it(self) -> None:
        assert step_shape(config(), LIVE) != step_shape(config(), DATA)


class TestDisk:
    def test_the_best_checkpoint_lies_beside_the_newest(self) -> None:
        judged = {"held_out.every_steps": 10, "checkpoint.every_steps": 10, "checkpoint.keep": 2, "steps": 100}
        of_one = 6400 * 4 + LAID_OUT * 8
        disks = {keep: planned(config(**judged, **{"held_out.keep_best": keep})).disk_bytes for keep in (True, False)}
        assert disks[True] - disks[False] == of_one
        nothing_held_out = DATA.model_copy(update={"held_out_images": 0})
        best = make_plan(config(**judged), BASE, nothing_held_out)
        assert (
            best.disk_bytes
            == make_plan(config(**judged, **{"held_out.keep_best": False}), BASE, nothing_held_out).disk_bytes
        )

    @pytest.mark.parametrize(
        ("changes", "count"),
        [
            ({"checkpoint.every_steps": None}, 1),
            ({"checkpoint.every_steps": 50}, 3),
            ({"checkpoint.every_steps": 10}, 3),
            ({"checkpoint.every_steps": 10, "held_out.every_steps": 10}, 4),
            ({"checkpoint.every_steps": None, "held_out.every_steps": 50}, 3),
        ],
    )
    def test_no_more_checkpoints_are_counted_than_are_saved(self, changes: dict[str, Any], count: int) -> None:
        assert most_checkpoints(config(steps=100, **{"checkpoint.keep": 2}, **changes), held_out=True) == count

    def test_class_pictures_are_cached_with_the_others(self) -> None:
        disks = [
            make_plan(given, BASE, DATA.model_copy(update={"class_images": there})).disk_bytes
            for given in (config(), config(prior={"class_prompt": "a dog", "images": 5}))
            for there in (0, 8)
        ]
        of_one = 128 * 128 * 4 * 8 + 1_000 * 2
        assert [disk - disks[0] for disk in disks] == [0, 0, 5 * of_one, 8 * of_one]

    def test_nothing_is_cached_of_what_is_encoded_at_each_use(self) -> None:
        plain = planned(config()).disk_bytes
        assert planned(config(**{"data.crop": "random"})).disk_bytes == plain - 8 * 128 * 128 * 4 * 8
        trained = {"method": "full", "export.layouts": [], "checkpoint.every_steps": None}
        whole, both = planned(config(**trained)), planned(config(**trained, **{"full.text_encoder": {}}))
        # Two checkpoints' worth of weights more, one of them with the optimiser's state; and no caption.
        assert both.disk_bytes == whole.disk_bytes + 2_000 * (4 + 4 + 8) - 8 * 1_000 * 2


class TestPlansOfOlderVersions:
    def test_are_still_read(self) -> None:
        plan = make_plan(parse_config(SETTINGS), BASE, DATA).model_dump(mode="json")
        for unknown_then in ("vae", "encoding", "class_pictures", "encoders", "loading", "update"):
            del plan["memory"][unknown_then]
        del plan["much_upscaled_images"], plan["class_images"], plan["fitting"]
        assert Plan.model_validate(plan).memory.vae == 0
