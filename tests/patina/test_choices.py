"""The data of a run as the command line takes it."""

from __future__ import annotations

import pytest

from contracts.failures import InvalidInput
from patina.choices import parse


class TestParse:
    def test_one_is_said_as_ever(self) -> None:
        assert parse(["style"], None) == parse(["style@latest"], None) == {"dataset": "style"}
        assert parse(["style"], 3) == parse(["style@3"], None) == {"dataset": "style", "version": 3}

    def test_several_have_a_version_and_a_weight_each(self) -> None:
        assert parse(["a@3=2", "b@latest", "c=0.5"], None) == {
            "datasets": [
                {"dataset": "a", "version": 3, "weight": 2},
                {"dataset": "b", "weight": 1},
                {"dataset": "c", "weight": 0.5},
            ]
        }

    def test_a_weight_alone_counts_too(self) -> None:
        assert parse(["a=2"], 4) == {"datasets": [{"dataset": "a", "version": 4, "weight": 2}]}

    def test_everything_wrong_is_said_at_once(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse(["a@first", "b=0", "c=much", "=1"], 2)
        pointers = [error.pointer for error in caught.value.errors]
        assert pointers == ["/datasets/0", "/datasets/1/weight", "/datasets/2/weight", "/datasets/3", "/version"]
