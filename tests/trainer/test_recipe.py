"""Recipes: everything wrong with one is said at once, and nothing is taken on trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.failures import InvalidInput
from trainer.recipe import as_yaml, read_recipe


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return file


class TestReadRecipe:
    def test_says_every_mistake_at_once(self, tmp_path: Path) -> None:
        file = write(
            tmp_path,
            "steps: 0\nlora: {rnak: 4}\npaths: {base_dir: /nowhere/at/all, datset_dir: x}\n",
        )
        with pytest.raises(InvalidInput) as caught:
            read_recipe(file, ["batch_size=none", "nonsense"])
        pointers = {error.pointer for error in caught.value.errors}
        assert pointers == {
            "/steps", "/lora/rnak", "/batch_size", "", "/paths/base_dir", "/paths/datset_dir", "/paths/dataset_dir",
        }  # fmt: skip

    def test_a_setting_given_twice_is_said_with_both_lines_beside_what_else_is_wrong(self, tmp_path: Path) -> None:
        paths = "paths: {base_dir: a, base_dir: b}\n"
        text = "steps: 100\nbatch_size: 0\nlora:\n  rank: 4\n  alpha: 4\n  rank: 8\nsteps: 5\n" + paths
        with pytest.raises(InvalidInput) as caught:
            read_recipe(write(tmp_path, text), ["data={flip: true, flip: false}"], dataset_dirs=[tmp_path])
        said = {error.pointer: error.message for error in caught.value.errors}
        assert said["/steps"] == "is given twice, in lines 1 and 7; keep one"
        assert said["/lora/rank"] == "is given twice, in lines 4 and 6; keep one"
        assert said["/data/flip"] == "is given twice, in line 1; keep one"
        assert "twice, in line 8" in next(e.message for e in caught.value.errors if e.pointer == "/paths/base_dir")
        assert "/batch_size" in said

    def test_arguments_win_over_the_file(self, tmp_path: Path) -> None:
        file = write(tmp_path, "lora: {rank: 4}\npaths: {base_dir: /nowhere, dataset_dir: /nowhere}\n")
        recipe = read_recipe(file, ["lora.rank=8", "data.flip=true"], base_dir=tmp_path, dataset_dirs=[tmp_path])
        assert (recipe.config.lora.rank, recipe.config.data.flip) == (8, True)
        assert (recipe.base_dir, [source.path for source in recipe.datasets]) == (tmp_path, [tmp_path])

    def test_several_data_sets_come_with_their_weights_from_the_file_or_the_arguments(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        listed = f"[{{path: {tmp_path}/a, weight: 2}}, {{path: {tmp_path}/b}}]"
        file = write(tmp_path, f"paths: {{base_dir: {tmp_path}, datasets: {listed}}}\n")
        given = read_recipe(file, dataset_dirs=[tmp_path / "b", tmp_path / "a"], dataset_weights=[0.5, 3])
        assert [(source.path.name, source.weight) for source in read_recipe(file).datasets] == [("a", 2), ("b", 1)]
        assert [(source.path.name, source.weight) for source in given.datasets] == [("b", 0.5), ("a", 3)]

    def test_names_each_data_set_that_is_not_right(self, tmp_path: Path) -> None:
        entries = f"[{{path: /nowhere/at/all}}, {{path: {tmp_path}, weight: 0}}, {tmp_path}]"
        both = write(tmp_path, f"paths: {{base_dir: {tmp_path}, dataset_dir: {tmp_path}, datasets: {entries}}}\n")
        with pytest.raises(InvalidInput) as caught:
            read_recipe(both)
        named = "/paths/datasets"
        found = [error.pointer for error in caught.value.errors]
        assert found == [named, f"{named}/0/path", f"{named}/1/weight", f"{named}/2"]
        with pytest.raises(InvalidInput, match="1 --dataset-dir, 2 --dataset-weight"):
            read_recipe(both, dataset_dirs=[tmp_path], dataset_weights=[1, 2])

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: 1\nb: [", "it is no YAML: line 2, column 5: "),
            ("- a\n- b\n", "it must hold settings by name, such as steps: 100"),
            ("just words", "it must hold settings by name"),
        ],
    )
    def test_refuses_what_is_no_mapping(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            read_recipe(write(tmp_path, text), base_dir=tmp_path, dataset_dirs=[tmp_path])
        assert caught.value.message == f"The recipe {tmp_path}/recipe.yaml cannot be read."
        assert words in caught.value.errors[0].message

    def test_names_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"none\.yaml cannot be read\. .*No such file") as caught:
            read_recipe(tmp_path / "none.yaml", base_dir=tmp_path, dataset_dirs=[tmp_path])
        assert caught.value.hint == "Recipes are YAML files; docs/recipes.md lists every setting."

    def test_knows_the_recipe_that_is_called_by_its_name(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            read_recipe(Path("demo"))
        assert caught.value.hint == "Did you mean configs/train/demo.yaml?"

    def test_knows_it_beside_a_folder_of_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "demo").mkdir()
        with pytest.raises(InvalidInput) as caught:
            read_recipe(tmp_path / "demo")
        assert caught.value.hint == "Did you mean configs/train/demo.yaml?"

    def test_names_what_is_not_there_by_the_option_that_says_it(self, tmp_path: Path) -> None:
        file = write(tmp_path, f"paths: {{base_dir: {tmp_path}, dataset_dir: {tmp_path}}}\n")
        with pytest.raises(InvalidInput) as caught:
            read_recipe(
                file,
                base_dir=Path("/no/base"),
                dataset_dirs=[tmp_path, Path("/no/data")],
                dataset_weights=[1, 0],
                init_weights=Path("/no/file"),
            )
        assert {(error.pointer, error.message) for error in caught.value.errors} == {
            ("", "--base-dir /no/base does not exist"),
            ("", "--dataset-dir /no/data does not exist"),
            ("", "--dataset-weight 0: Input should be greater than or equal to 0.01"),
            ("", "--init-weights /no/file does not exist"),
        }

    def test_a_misspelt_place_and_a_start_without_its_file_are_said_with_the_rest(self, tmp_path: Path) -> None:
        file = write(tmp_path, f"steps: 0\ninit_from: style@best\npaths: {{base_dir: {tmp_path}, dataset_dri: x}}\n")
        with pytest.raises(InvalidInput) as caught:
            read_recipe(file)
        said = {error.pointer: error.message for error in caught.value.errors}
        assert set(said) == {"/steps", "/init_from", "/paths/dataset_dri", "/paths/dataset_dir"}
        assert said["/paths/dataset_dri"].endswith("did you mean dataset_dir?")

    def test_reads_back_what_it_writes(self, tmp_path: Path) -> None:
        recipe = read_recipe(write(tmp_path, "trigger_word: 'é style'"), base_dir=tmp_path, dataset_dirs=[tmp_path])
        again = read_recipe(write(tmp_path, as_yaml(recipe.config)), base_dir=tmp_path, dataset_dirs=[tmp_path])
        assert again.config == recipe.config
