"""Recipes: the YAML files a run starts from. Knows nothing about runs.

A recipe may say under ``paths:`` where a trainer without a server finds its base and data; a server ignores that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.yamls import read_yaml

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")


@dataclass(frozen=True)
class Recipe:
    """A recipe by name: its settings, and the first line of its leading comment."""

    name: str
    summary: str
    values: dict[str, Any]
    repeated: tuple[FieldError, ...] = ()
    """The settings that its file gives more than once: no run is made of it."""


def list_recipes(folder: Path) -> list[Recipe]:
    """Every recipe of the folder that can be read, by name."""
    return [
        recipe
        for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
        if (recipe := _read(path)) is not None
    ]


def load_recipe(folder: Path, name: str) -> Recipe:
    """One recipe by name.

    Raises:
        PatinaError: UNKNOWN_RECIPE, naming those there are.
        InvalidInput: its file gives a setting more than once.
    """
    recipe = _read(folder / f"{name}.yaml") if NAME.fullmatch(name) else None
    if recipe is None:
        known = ", ".join(recipe.name for recipe in list_recipes(folder)) or "none"
        raise PatinaError(FailureCode.UNKNOWN_RECIPE, f"There is no recipe named '{name}'; there are: {known}.")
    if recipe.repeated:
        # Of the recipe itself: an override of the setting would not mend it.
        told = [f"{name}.yaml: {one.pointer.strip('/').replace('/', '.')} {one.message}" for one in recipe.repeated]
        raise InvalidInput([FieldError(pointer="", message=words) for words in told])
    return recipe


def _read(path: Path) -> Recipe | None:
    try:
        text = path.read_text(encoding="utf-8")
        values, repeated = read_yaml(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(values, dict):
        return None
    first = text.partition("\n")[0]
    summary = first.lstrip("# ").strip() if first.startswith("#") else ""
    settings = {key: value for key, value in values.items() if key != "paths"}
    return Recipe(path.stem, summary, settings, tuple(repeated))
