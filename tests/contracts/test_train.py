"""Training configurations: every mistake at once, and nothing that has no digest."""

from __future__ import annotations

import pytest

from contracts.failures import InvalidInput
from contracts.train import TrainConfig, parse_config


class TestParseConfig:
    def test_puts_dotted_settings_in_place_of_the_recipes_and_leaves_the_recipe_alone(self) -> None:
        recipe = {"steps": 10, "lora": {"rank": 4}}
        config = parse_config(recipe, {"lora.alpha": 2.0, "lora.rank": 8, "data.flip": True})
        assert (config.steps, config.lora.rank, config.lora.alpha, config.data.flip) == (10, 8, 2.0, True)
        assert recipe == {"steps": 10, "lora": {"rank": 4}}

    def test_names_every_mistake_by_where_it_is(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config({"step": 1, "lora": {"rank": 0}}, {"steps.more": 1, "data.flipp": True})
        pointers = {error.pointer for error in caught.value.errors}
        assert pointers >= {"/step", "/lora/rank", "/data/flipp"}

    def test_says_what_a_name_may_be_in_words(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config({}, {"output_name": "My Style"})
        (error,) = caught.value.errors
        assert error.message.startswith("'My Style' is no name: use a-z")
        assert "^" not in error.message

    @pytest.mark.parametrize("key", ["lora.alpha", "loss.min_snr_gamma", "optimizer.max_grad_norm"])
    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_refuses_numbers_that_are_none(self, key: str, value: float) -> None:
        with pytest.raises(InvalidInput):
            parse_config({}, {key: value})

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("data.flip", "False", 'must be true or false, not "False"'),
            ("data.flip", 1, "must be true or false, not 1"),
            ("steps", "100", 'must be a whole number, not "100"'),
            ("steps", True, "must be a whole number, not true"),
            ("lora.alpha", True, "must be a number, not true"),
            ("trigger_word", 3, "must be text, not 3"),
        ],
    )
    def test_takes_no_value_of_another_type(self, key: str, value: object, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config({}, {key: value})
        assert [(e.pointer, e.message) for e in caught.value.errors] == [("/" + key.replace(".", "/"), words)]

    def test_takes_the_numbers_yaml_hands_over_as_text_and_lists_for_pairs(self) -> None:
        given = {"optimizer": {"learning_rate": "1e-4", "betas": ["9e-1", 0.99]}, "preview": {"prompts": ["a"]}}
        config = parse_config(given)
        assert (config.optimizer.learning_rate, config.optimizer.betas) == (1e-4, (0.9, 0.99))
        assert config.preview.prompts == ("a",)

    def test_names_every_rule_that_is_broken_at_its_field(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config(
                {
                    "loss": {
                        "prediction_type": "epsilon",
                        "zero_terminal_snr": True,
                        "min_timestep": 9,
                        "max_timestep": 3,
                    },
                    "data": {"max_aspect": 0},
                }
            )
        pointers = [error.pointer for error in caught.value.errors]
        assert pointers == ["/loss/max_timestep", "/loss/zero_terminal_snr", "/data/max_aspect"]

    def test_refuses_objectives_that_exclude_what_else_is_asked_for(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config(
                {
                    "method": "full",
                    "full": {"fused_backward": True},
                    "optimizer": {"max_grad_norm": None},
                    "prior": {"class_prompt": "a cat"},
                    "loss": {"masked": {}},
                    "data": {"crop": "random"},
                }
            )
        assert [e.pointer for e in caught.value.errors] == ["/prior", "/loss/masked/unmasked_weight"]

    def test_refuses_a_warm_up_longer_than_the_run(self) -> None:
        with pytest.raises(InvalidInput, match="must be below steps"):
            parse_config({"steps": 5, "optimizer": {"warmup_steps": 5}})


class TestDigest:
    def test_is_of_the_values_not_of_how_they_were_given(self) -> None:
        given = parse_config({"lora": {"rank": 16}}, {"steps": 1000})
        assert given.digest() == TrainConfig().digest() != parse_config({"seed": 1}).digest()
