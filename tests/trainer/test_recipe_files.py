"""The recipes and launch files that are shipped, and the page that lists their settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from contracts.train import TrainConfig, parse_config
from trainer.recipe import PATH_KEYS

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "train").rglob("*.yaml"))
LAUNCHES = sorted((ROOT / "configs" / "accelerate").rglob("*.yaml"))


class TestShippedRecipes:
    def test_are_found(self) -> None:
        assert {path.name for path in RECIPES} >= {"demo.yaml", "sdxl-style-24gb.yaml"}

    @pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
    def test_parse_and_say_how_they_are_run(self, file: Path) -> None:
        text = file.read_text()
        values = yaml.safe_load(text)
        assert set(values.pop("paths", {})) <= set(PATH_KEYS)
        parse_config(values)
        assert f"-m trainer configs/train/{file.name}" in text or f"configs/train/{file.name} " in text


class TestLaunchFiles:
    def test_leave_precision_to_the_recipe(self) -> None:
        assert len(LAUNCHES) >= 3
        assert {yaml.safe_load(file.read_text())["mixed_precision"] for file in LAUNCHES} == {"no"}


class TestTheSettingsPage:
    def test_lists_every_setting_with_its_default_and_its_help(self) -> None:
        page = (ROOT / "docs" / "recipes.md").read_text()
        rows = list(setting_rows(TrainConfig))
        assert len(rows) > 40
        missing = [row for row in rows if row not in page]
        assert not missing, "docs/recipes.md lacks these lines:\n" + "\n".join(missing)


def setting_rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The lines of docs/recipes.md, one a setting, as the code defines them."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from setting_rows(type(field.default), f"{prefix}{name}.")
            continue
        words = " ".join((field.description or "").split())
        default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
        yield f"| `{prefix}{name}` | `{default}` | {words} |"
        for inside in get_args(field.annotation):
            if isinstance(inside, type) and issubclass(inside, BaseModel):
                yield from setting_rows(inside, f"{prefix}{name}.")
