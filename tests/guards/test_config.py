"""What HTTP accepts as a training configuration can never say where something is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from contracts.failures import InvalidInput
from contracts.generate import GenerationRequest
from contracts.train import TrainConfig, parse_config

PLACE_WORDS = {"path", "file", "folder", "dir", "directory", "url", "uri", "repo", "repository", "hub", "host", "root"}
PLACES = ("/etc/passwd", "../up", "https://example.com/x", "s3://bucket/x", "owner/name", "C:\\x")
TEXT_FOR_PEOPLE = {"prompts", "trigger_word", "tags", "prompt", "negative_prompt", "class_prompt", "prefix", "suffix"}
"""Free text that is drawn or shown, never opened."""


class TestNothingIsAPlace:
    @pytest.mark.parametrize("model", [TrainConfig, GenerationRequest])
    def test_no_field_is_a_path_by_type_format_or_name(self, model: Any) -> None:
        fields = list(_fields(model.model_json_schema()))
        assert len(fields) > 9
        for name, schema in fields:
            assert schema.get("format") not in {"path", "file-path", "directory-path", "uri"}, name
            assert not PLACE_WORDS & set(name.split("_")), f"{name} sounds like a place"

    @pytest.mark.parametrize("model", [TrainConfig, GenerationRequest])
    def test_every_free_text_is_for_people_or_refuses_what_looks_like_a_place(self, model: Any) -> None:
        texts = [(name, text) for name, schema in _fields(model.model_json_schema()) for text in _texts(schema)]
        assert texts
        for name, text in texts:
            if name in TEXT_FOR_PEOPLE or "enum" in text or "const" in text:
                continue
            assert "pattern" in text, f"{name} takes any text"
            assert [p for p in PLACES if re.search(text["pattern"], p)] == [], f"{name} takes a place"

    def test_a_recipe_with_a_place_in_it_is_refused(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config({"paths": {"base_dir": "/x"}}, {"data.root": "/y"})
        assert {error.pointer for error in caught.value.errors} == {"/paths", "/data/root"}


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for owner in (schema, *schema.get("$defs", {}).values()):
        yield from owner.get("properties", {}).items()


def _texts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every place in a field's schema that accepts text."""
    if schema.get("type") == "string":
        yield schema
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("prefixItems", ())):
        yield from _texts(part)
    if isinstance(schema.get("items"), dict):
        yield from _texts(schema["items"])
