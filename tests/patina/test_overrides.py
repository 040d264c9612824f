from __future__ import annotations

from typing import Any

import pytest

from contracts.failures import InvalidInput
from patina import overrides


class TestParse:
    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("steps=200", 200),
            ("optimizer.learning_rate=1e-4", 1e-4),
            ("optimizer.learning_rate=3.5e-05", 3.5e-05),
            ("gradient_checkpointing=true", True),
            ("trigger_word=null", None),
            ("trigger_word=twemoji style", "twemoji style"),
            ("preview.prompts=[a cat, 'a, b']", ["a cat", "a, b"]),
            ("a=b=c", "b=c"),
            ("name=", ""),
        ],
    )
    def test_values_are_read_as_people_mean_them(self, word: str, value: Any) -> None:
        (found,) = overrides.parse([word]).values()
        assert found == value
        assert type(found) is type(value)

    def test_every_unreadable_word_is_listed(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            overrides.parse(["steps", "=3", "lora.rank=4", "lora.rank=8", "x=[1"])
        assert [e.pointer for e in caught.value.errors] == ["/steps", "/=3", "/lora.rank", "/x"]

    def test_a_key_given_twice_inside_a_value_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="/lora/rank: is given twice"):
            overrides.parse(["lora={rank: 4, rank: 8}"])
