"""`key=value` of the command line as settings of a recipe. Knows nothing about which settings there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from contracts.failures import FieldError, InvalidInput
from contracts.yamls import read_yaml


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and their values, read as YAML: numbers, true, null, [lists] and text.

    Raises:
        InvalidInput: with every word that is not of that form.
    """
    values: dict[str, Any] = {}
    errors = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip("."):
            errors.append(
                FieldError(pointer=f"/{word}", message="is not key=value, for example optimizer.warmup_steps=10")
            )
            continue
        if key in values:
            errors.append(FieldError(pointer=f"/{key}", message="is given twice"))
            continue
        try:
            values[key], repeated = _value(text)
            errors += [FieldError(pointer=f"/{key}{one.pointer}", message=one.message) for one in repeated]
        except yaml.YAMLError:
            errors.append(FieldError(pointer=f"/{key}", message=f"'{text}' cannot be read as YAML; put it in quotes"))
    if errors:
        raise InvalidInput(errors, "The overrides cannot be read.", "Write key=value, with dots for settings inside.")
    return values


def _value(text: str) -> tuple[Any, list[FieldError]]:
    """The value, and the keys in it that are given more than once."""
    value, repeated = read_yaml(text) if text else ("", [])
    # YAML 1.1 reads 1e-4 as text, because it wants a dot; people do not.
    if isinstance(value, str) and value == text:
        try:
            return float(text), []
        except ValueError:
            return value, []
    return value, repeated
