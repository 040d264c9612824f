"""Settings as people write them, in YAML and as dotted overrides, for a tree of strict types.

Knows nothing about which settings there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.failures import FieldError

Model = TypeVar("Model", bound=BaseModel)

SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""What YAML 1.1 reads as text, because it wants a dot; people do not."""


def validated(model: type[Model], values: dict[str, Any]) -> Model:
    """The values as ``model``, strictly: but lists stand for tuples, and 1e-4 is a number.

    Raises:
        ValidationError: with everything that is wrong.
    """
    try:
        return model.model_validate(_with_tuples(values), strict=True)
    except ValidationError as error:
        texts = [e for e in error.errors() if e["type"] == "float_type" and SCIENTIFIC.fullmatch(str(e["input"]))]
        if not texts:
            raise
        for text in texts:
            *parents, last = text["loc"]
            node: Any = values
            for parent in parents:
                node = node[parent]
            node[last] = float(text["input"])
        return model.model_validate(_with_tuples(values), strict=True)


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldError]]:
    """A copy of ``values`` with dotted settings put in, and those that have no place there."""
    merged: dict[str, Any] = deepcopy(dict(values))
    errors = []
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node: Any = merged
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                errors.append(
                    FieldError(pointer="/" + dotted.replace(".", "/"), message=f"{parent} has no settings inside")
                )
                break
        else:
            node[last] = value
    return merged, errors


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tuples(inside) for key, inside in value.items()}
    return tuple(_with_tuples(inside) for inside in value) if isinstance(value, list | tuple) else value
