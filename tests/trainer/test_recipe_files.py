"""The recipes and launch files that are shipped, and the page that lists their settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from contracts.base import BaseDescription, BaseProfile, Family
from contracts.dataset import DatasetSummary
from contracts.fitting import fits
from contracts.plan import make_plan
from contracts.sizes import parse_bytes
from contracts.train import TrainConfig, parse_config
from trainer.recipe import PATH_KEYS

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "train").rglob("*.yaml"))
BASES = {"sdxl": "sdxl-1.0", "ssd-1b": "ssd-1b", "demo": "emoji-xl"}
PICTURES = DatasetSummary(digest="c" * 64, train_sizes={"1024x1024": 190}, train_images=190, held_out_images=10)
LAUNCHES = sorted((ROOT / "configs" / "accelerate").rglob("*.yaml"))


class TestShippedRecipes:
    def test_are_found(self) -> None:
        assert len(RECIPES) == 13
        goals = {"demo", "demo-dreambooth", "sdxl-style", "sdxl-character", "sdxl-product", "sdxl-full", "ssd-1b-style"}
        assert {re.sub(r"-\d+gb$", "", path.stem) for path in RECIPES} == goals

    @pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
    def test_parse_and_say_how_they_are_run(self, file: Path) -> None:
        text = file.read_text()
        values = yaml.safe_load(text)
        assert set(values.pop("paths", {})) <= set(PATH_KEYS)
        parse_config(values)
        assert f"-m trainer configs/train/{file.name}" in text or f"configs/train/{file.name} " in text

    @pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
    def test_are_planned_to_fit_the_memory_in_their_name(self, file: Path) -> None:
        values = yaml.safe_load(file.read_text())
        values.pop("paths", None)
        name = next(base for family, base in BASES.items() if file.stem.startswith(family))
        (profile,) = (ROOT / "bases" / "profiles").glob(f"{name}.*.json")
        plan = make_plan(parse_config(values), described(profile), PICTURES)
        named = re.search(r"-(\d+gb)$", file.stem)
        assert fits(plan.memory_total, parse_bytes(named[1] if named else "2GB"))
        told = re.search(r"Planned: ([\d.]+) GiB", file.read_text())
        assert (told is None) == (named is None)
        if told:
            assert float(told[1]) == pytest.approx(plan.memory_total / 2**30, abs=0.5)


def described(profile: Path) -> BaseDescription:
    """A base of a stored shape, at SDXL's size or the demo's."""
    return BaseDescription(
        family=Family.SDXL,
        identity="a" * 64,
        vae_identity="b" * 64,
        native_px=64 if profile.name.startswith("emoji") else 1024,
        prediction_type="epsilon",
        latent_channels=4,
        vae_factor=8,
        profile=BaseProfile.model_validate_json(profile.read_text()),
    )


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
