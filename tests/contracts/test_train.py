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

    def test_refuses_a_warm_up_longer_than_the_run(self) -> None:
        with pytest.raises(InvalidInput, match="must be below steps"):
            parse_config({"steps": 5, "optimizer": {"warmup_steps": 5}})


class TestDigest:
    def test_is_of_the_values_not_of_how_they_were_given(self) -> None:
        given = parse_config({"lora": {"rank": 16}}, {"steps": 1000})
        assert given.digest() == TrainConfig().digest() != parse_config({"seed": 1}).digest()
