"""Recipes of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.runs.recipes import list_recipes, load_recipe
from contracts.failures import FailureCode, InvalidInput, PatinaError


class TestLoadRecipe:
    def test_gives_settings_without_the_trainer_s_own_paths(self, recipes: Path) -> None:
        recipe = load_recipe(recipes, "demo")
        assert recipe.values == {"steps": 10, "batch_size": 2}
        assert recipe.summary == "For tests."

    @pytest.mark.parametrize("name", ["missing", "../recipes/demo", "demo.yaml", "", "DEMO", "demo\n", "/etc/passwd"])
    def test_of_an_unknown_name_tells_those_there_are(self, recipes: Path, name: str) -> None:
        with pytest.raises(PatinaError, match=r"there are: demo\.") as caught:
            load_recipe(recipes, name)
        assert caught.value.code == FailureCode.UNKNOWN_RECIPE

    def test_one_that_is_not_a_mapping_or_not_yaml_is_none(self, recipes: Path) -> None:
        (recipes / "broken.yaml").write_text("a: [1")
        (recipes / "list.yaml").write_text("- 1")
        assert [recipe.name for recipe in list_recipes(recipes)] == ["demo"]

    def test_one_that_gives_a_setting_twice_is_listed_and_refused_with_both_lines(self, recipes: Path) -> None:
        (recipes / "twice.yaml").write_text("lora:\n  rank: 4\n  rank: 8\n")
        assert [recipe.name for recipe in list_recipes(recipes)] == ["demo", "twice"]
        with pytest.raises(InvalidInput, match=r"twice\.yaml: lora\.rank is given twice, in lines 2 and 3; keep one"):
            load_recipe(recipes, "twice")

    def test_of_a_folder_that_is_not_there_is_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(PatinaError, match="there are: none"):
            load_recipe(tmp_path / "gone", "demo")


class TestOurRecipes:
    def test_all_of_them_can_be_asked_for(self) -> None:
        folder = Path(__file__).parents[3] / "configs" / "train"
        files = sorted(path.stem for path in folder.glob("*.yaml"))
        assert files
        assert [recipe.name for recipe in list_recipes(folder)] == files
