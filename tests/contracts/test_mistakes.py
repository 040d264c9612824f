"""Everything wrong with a recipe is said at once: values, names and broken rules, and nothing that only seems so."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.failures import InvalidInput
from contracts.mistakes import checked, unknown
from contracts.train import TrainConfig, parse_config


def said(values: dict[str, Any]) -> dict[str, str]:
    """What is wrong with a recipe, by pointer."""
    with pytest.raises(InvalidInput) as caught:
        parse_config(values)
    return {error.pointer: error.message for error in caught.value.errors}


class TestAllAtOnce:
    def test_a_type_a_name_and_rules_of_different_sections_are_said_together(self) -> None:
        wrong = said(
            {
                "steps": 10,
                "data": {"flip": "False", "captions": {"keep_tokens": 2}},
                "lora": {"rnak": 4},
                "held_out": {"publish": "best"},
                "optimizer": {"warmup_steps": 50},
                "method": "full",
                "quantize": "nf4",
            }
        )
        assert wrong == {
            "/data/flip": 'must be true or false, not "False"',
            "/data/captions/keep_tokens": "has no effect without shuffle or tag_dropout",
            "/lora/rnak": "there is no such setting; did you mean lora.rank?",
            "/held_out/publish": "best needs held_out.every_steps and held_out.keep_best",
            "/optimizer/warmup_steps": "the warm-up of 50 steps must be below steps (10)",
            "/quantize": "must be null with method full: weights that are trained cannot be kept in a few bits",
        }

    def test_a_section_with_a_mistake_still_says_which_of_its_rules_are_broken(self) -> None:
        assert set(said({"loss": {"min_snr_gamma": "5", "min_timestep": 9, "max_timestep": 3}})) == {
            "/loss/min_snr_gamma",
            "/loss/max_timestep",
        }

    @pytest.mark.parametrize(
        ("values", "pointers"),
        [
            # The default would break the rule; what was meant may not.
            ({"steps": "many", "optimizer": {"warmup_steps": 2000}}, {"/steps"}),
            ({"stpes": 5000, "optimizer": {"warmup_steps": 2000}}, {"/stpes"}),
            ({"optimizer": {"schedule": "cosine-with-restart", "cycles": 3}}, {"/optimizer/schedule"}),
            ({"optimizer": {"schedule": "polynomial", "power": "2"}}, {"/optimizer/power"}),
            ({"optimizer": {"kind": "lion", "betas": None}}, {"/optimizer/kind"}),
            ({"methd": "full", "full": {"fused_backward": True}, "optimizer": {"max_grad_norm": None}}, {"/methd"}),
            (
                {"method": "full", "full": {"fused_backward": True}, "optimizer": {"kind": "adafaktor"}},
                {"/optimizer/kind"},
            ),
            ({"held_out": {"every_step": 5, "stop_after": 2}}, {"/held_out/every_step"}),
            ({"held_out": {"every_steps": 0, "stop_after": 2, "publish": "best"}}, {"/held_out/every_steps"}),
        ],
    )
    def test_a_rule_says_nothing_where_what_it_looks_at_is_wrong_itself(
        self, values: dict[str, Any], pointers: set[str]
    ) -> None:
        assert set(said(values)) == pointers

    def test_what_is_wrong_inside_lists_and_sections_hides_nothing_else(self) -> None:
        wrong = said(
            {
                "preview": {"prompts": ["a", 3]},
                "prior": {"wieght": 2},
                "lora": 5,
                "optimizer": {"betas": [2, 0.9], "schedule": "polynomial"},
                "method": "full",
                "quantize": "nf4",
            }
        )
        assert set(wrong) == {
            "/preview/prompts/1",
            "/prior/class_prompt",
            "/prior/wieght",
            "/lora",
            "/optimizer/betas/0",
            "/optimizer/power",
            "/quantize",
        }

    def test_leaves_the_values_it_is_given_as_they_are(self) -> None:
        values = {"steps": "x", "lora": {"rank": 0}}
        config, errors = checked(TrainConfig, values)
        assert config is None
        assert len(errors) == 2
        assert values == {"steps": "x", "lora": {"rank": 0}}


class TestUnknownSettings:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"presicion": "bf16"}, "did you mean precision?"),
            ({"lora": {"alhpa": 3}}, "did you mean lora.alpha?"),
            ({"learning_rate": 1e-4}, "did you mean optimizer.learning_rate?"),
            ({"data": {"shuffle": True}}, "did you mean data.captions.shuffle?"),
            (
                {"every_steps": 5},
                "did you mean checkpoint.every_steps or preview.every_steps or held_out.every_steps?",
            ),
            ({"lora.rank": 8}, "rank is a setting of the section lora"),
            ({"lora": {"steps": 8}}, "steps stands outside of any section"),
            ({"prior": {"class_prompt": "a cat", "weigth": 1}}, "did you mean prior.weight?"),
            ({"xyzzy": 8}, "there is no such setting; check the spelling"),
        ],
    )
    def test_are_answered_with_the_one_that_was_probably_meant(self, values: dict[str, Any], words: str) -> None:
        (message,) = said(values).values()
        assert words in message

    def test_outside_of_a_configuration_too(self) -> None:
        assert unknown("datset_dir", ["base_dir", "dataset_dir"]).endswith("did you mean dataset_dir?")
