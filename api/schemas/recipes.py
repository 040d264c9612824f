"""What the API answers about recipes."""

from __future__ import annotations

from typing import Any

from api.schemas.common import Answer
from catalog.runs.recipes import Recipe
from contracts.failures import InvalidInput
from contracts.train import TrainConfig, parse_config


class RecipeOut(Answer):
    """A starting point for runs."""

    name: str
    summary: str
    """The first line of its comment."""
    values: dict[str, Any]
    """The settings it writes down."""
    config: TrainConfig | None
    """Every setting, defaults filled in; null when the file on the server cannot be used as it is."""


def recipe_out(recipe: Recipe) -> RecipeOut:
    """A recipe file as the API shows it."""
    try:
        config = parse_config(recipe.values)
    except InvalidInput:
        config = None
    return RecipeOut(name=recipe.name, summary=recipe.summary, values=recipe.values, config=config)
