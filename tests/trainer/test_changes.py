"""What differs between two configurations is named setting by setting, as a recipe has it."""

from __future__ import annotations

from contracts.train import parse_config
from trainer.changes import changes


class TestChanges:
    def test_are_named_by_their_place_and_written_as_in_a_recipe(self) -> None:
        before = parse_config({"data": {"concept_weights": {"cat": 2.0}}})
        now = parse_config(
            {
                "quantize": "nf4",
                "lora": {"rank": 8, "text_encoder": {}},
                "data": {"flip": True, "concept_weights": {"dog": 1.5}},
                "preview": {"prompts": ["é"]},
            }
        )
        encoder = '{"rank": 8, "alpha": 8.0, "learning_rate": null}'
        assert [f"{change.name}: {change.arrow}" for change in changes(before, now)] == [
            "quantize: null -> nf4",
            "lora.rank: 16 -> 8",
            f"lora.text_encoder: null -> {encoder}",
            "data.concept_weights.cat: 2.0 -> null",
            "data.concept_weights.dog: null -> 1.5",
            "data.flip: false -> true",
            'preview.prompts: [] -> ["é"]',
        ]

    def test_are_none_between_equals(self) -> None:
        assert changes(parse_config({"lora": {"rank": 16}}), parse_config({})) == []
