"""What an upload is taken from: what lies here goes first, then the hub, asked by its own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from contracts.failures import FailureCode, PatinaError
from contracts.layouts import METADATA_NAMES
from patina import sources
from patina.hub_dataset import ALLOWED, ENDINGS, IGNORED, select
from tests.hub import Hub, hub

NAME = "ada/cats"
FILES = {
    ".gitattributes": b"x",
    "README.md": b"# Cats",
    "cats.py": b"raise SystemExit('code of a stranger')",
    "dataset_infos.json": b"{}",
    "train/0 [best]?.PNG": b"pixels",
    "train/metadata.jsonl": b"{}",
    "train/cats.tar": b"x",
    "data/train-00000-of-00001.parquet": b"PAR1",
}
TAKEN = ["data/train-00000-of-00001.parquet", "train/0 [best]?.PNG", "train/metadata.jsonl"]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one data set; this process stands in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with hub() as served:
        served.datasets[NAME] = dict(FILES)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in served.environment(tmp_path / "hub").items():
            monkeypatch.setenv(name, value)
        yield served


def find(source: str) -> tuple[dict[str, bytes], dict[str, str], list[str]]:
    told: list[str] = []
    found = sources.find(source, told.append)
    return {name: path.read_bytes() for name, path in found.sent}, found.left_out, told


class TestHub:
    def test_what_an_upload_takes_is_downloaded_and_nothing_else(self, served: Hub) -> None:
        sent, left_out, told = find(NAME)
        assert sent == {name: FILES[name] for name in TAKEN}
        assert list(left_out) == [name for name in sorted(FILES) if name not in TAKEN]
        assert "pack the files as a .zip" in left_out["train/cats.tar"]
        assert left_out["dataset_infos.json"] == sources.ABOUT_THE_DATA
        assert told == [NAME]
        assert not any("cats.py" in path or "cats.tar" in path for _, path in served.asked)

    def test_again_downloads_no_file_twice(self, served: Hub) -> None:
        find(NAME)
        served.asked.clear()
        sent, _, _ = find(NAME)
        assert set(sent) == set(TAKEN)
        assert [path for method, path in served.asked if method == "GET" and "/resolve/" in path] == []

    def test_a_private_one_is_opened_by_the_token_of_the_environment(
        self, served: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        served.token = "hf_very_secret"
        with pytest.raises(PatinaError, match="no such data set, or not for this token"):
            find(NAME)
        monkeypatch.setenv("HF_TOKEN", served.token)
        assert set(find(NAME)[0]) == set(TAKEN)
        shown = capfd.readouterr()
        assert served.token not in shown.out + shown.err

    def test_one_without_pictures_is_said_to_have_none(self, served: Hub) -> None:
        served.datasets["ada/words"] = {"train.csv": b"text\n", "README.md": b"x", "config.json": b"{}"}
        with pytest.raises(PatinaError, match="no picture, Parquet file or zip") as refused:
            find("ada/words")
        assert refused.value.code is FailureCode.EMPTY_DATASET

    def test_what_is_neither_here_nor_there_names_both(self, served: Hub) -> None:
        with pytest.raises(PatinaError) as refused:
            find("ada/dogs")
        assert refused.value.code is FailureCode.NOT_FOUND
        assert "no folder or file ada/dogs here" in refused.value.message
        assert "the hub has no such data set" in refused.value.message

    def test_a_hub_that_does_not_answer_is_told_apart(self, served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(PatinaError, match=r"the hub does not give .*ConnectError"):
            find("ada/other")


class TestHere:
    def test_a_folder_of_that_name_goes_first(self, served: Hub) -> None:
        folder = Path("ada/cats")
        folder.mkdir(parents=True)
        (folder / "mine.png").write_bytes(b"mine")
        assert find(NAME) == ({"mine.png": b"mine"}, {}, [])
        assert served.asked == []

    @pytest.mark.parametrize("source", ["no-such-folder", "./ada/cats", "a/b/c", "/nowhere/at-all", "~/nothing"])
    def test_what_is_no_name_of_the_hub_is_looked_for_here_alone(self, served: Hub, source: str) -> None:
        with pytest.raises(PatinaError, match="There is no folder or file") as refused:
            find(source)
        assert "OWNER/NAME" in refused.value.hint
        assert served.asked == []


class TestSelect:
    def test_every_file_that_is_taken_is_downloaded(self) -> None:
        names = [f"x{ending}" for ending in (*ENDINGS, ".Jpg", ".PARQUET")] + ["deep/er/metadata.csv", "a_mask.png"]
        taken = select(names)
        assert len(taken) > len(ENDINGS) - len(METADATA_NAMES)
        assert set(filter_repo_objects(names, allow_patterns=ALLOWED, ignore_patterns=IGNORED)) >= set(taken)

    def test_hidden_files_and_code_stay_there(self) -> None:
        assert select([".git/a.png", "a.png", "b.py", "c/.d/e.png", "f.bin", "g.pt"]) == ["a.png"]
