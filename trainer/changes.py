"""What differs between two configurations, setting by setting. Knows nothing about what a difference means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from contracts.train import RESULT_NEUTRAL_FIELDS, TrainConfig


class Change(NamedTuple):
    """A setting whose values differ."""

    name: str
    """Dotted, as it is given on the command line."""
    before: Any
    now: Any

    @property
    def section(self) -> str:
        """The top-level setting it belongs to."""
        return self.name.partition(".")[0]

    @property
    def is_neutral(self) -> bool:
        """Whether what is learned stays the same."""
        return not RESULT_NEUTRAL_FIELDS.isdisjoint((self.section, self.name))

    @property
    def arrow(self) -> str:
        """Both values, as a recipe has them."""
        return f"{_written(self.before)} -> {_written(self.now)}"

    @property
    def words(self) -> str:
        """The same as part of a sentence."""
        return f"{self.name} was {_written(self.before)}, is {_written(self.now)}"


def changes(before: TrainConfig, now: TrainConfig) -> list[Change]:
    """Every setting that differs, in the order of the configuration."""
    return list(_between("", before.model_dump(mode="json"), now.model_dump(mode="json")))


def _between(prefix: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    # Of what is by pattern or concept, only one of the two may have a key.
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _between(f"{prefix}{key}.", old, new)
        elif old != new:
            yield Change(prefix + key, old, new)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
