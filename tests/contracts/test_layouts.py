"""What files are by their names."""

from __future__ import annotations

import pytest

from contracts.dataset import Split
from contracts.layouts import (
    FileKind,
    concept_folder,
    held_out_by_path,
    kind_of,
    masked_stem,
    split_named,
    text_column,
    why_not,
)


class TestKindOf:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("a/CAT.PNG", FileKind.IMAGE),
            ("cat.avif", FileKind.IMAGE),
            ("cat.txt", FileKind.CAPTION),
            ("cat.caption", FileKind.CAPTION),
            ("cat_mask.jpg", FileKind.MASK),
            ("_mask.png", FileKind.IMAGE),
            ("x/metadata.jsonl", FileKind.METADATA),
            ("x/metadata.csv", FileKind.METADATA),
            ("metadata.parquet", FileKind.METADATA),
            ("meta_cap.json", FileKind.METADATA),
            ("train-00000-of-00002.parquet", FileKind.TABLE),
            ("all.zip", FileKind.ARCHIVE),
            ("notes.csv", FileKind.OTHER),
            ("cat.gif", FileKind.OTHER),
            ("cat", FileKind.OTHER),
        ],
    )
    def test_goes_by_the_name(self, name: str, kind: FileKind) -> None:
        assert kind_of(name) is kind


class TestWhyNot:
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TGZ", "a.7z", "a.rar", "a.tar.zst"])
    def test_of_another_archive_says_to_use_zip(self, name: str) -> None:
        assert kind_of(name) is FileKind.OTHER
        assert "pack the files as a .zip" in why_not(name)

    @pytest.mark.parametrize("name", ["still.gif", "scan.TIFF", "scan.tif", "tmp.bmp", "phone.HEIC"])
    def test_of_a_picture_in_another_format_says_to_convert_it(self, name: str) -> None:
        assert why_not(name) == (
            "a picture in a format that is not taken; convert it to one of .png .jpg .jpeg .webp .avif"
        )

    def test_of_anything_else_lists_what_is_taken(self) -> None:
        assert ".avif" in why_not("notes.pdf")


class TestMaskedStem:
    def test_is_the_name_its_picture_has(self) -> None:
        assert masked_stem("a/cat_mask.png") == masked_stem("a/cat_MASK.jpg") == "a/cat"


class TestConceptFolder:
    def test_gives_repeats_and_words(self) -> None:
        assert concept_folder("img/10_sks  dog/1.png") == ("10_sks  dog", 10, "sks dog")

    @pytest.mark.parametrize("name", ["1.png", "dog/1.png", "0_dog/1.png", "2024_trip/1.png", "10_ /1.png", "9/1.png"])
    def test_an_ordinary_folder_is_none(self, name: str) -> None:
        assert concept_folder(name) is None

    @pytest.mark.parametrize("table", ["10_cats.parquet", "sets/10_cats.PARQUET"])
    def test_a_row_of_a_table_lies_in_none(self, table: str) -> None:
        assert concept_folder(f"{table}:1/x.png") is None

    def test_only_the_folder_the_file_lies_in_counts(self) -> None:
        assert concept_folder("10_dog/more/1.png") is None


class TestTextColumn:
    @pytest.mark.parametrize(
        ("columns", "chosen"),
        [
            (["file_name", "prompt", "text"], "text"),
            (["Caption", "file_name"], "Caption"),
            (["file_name", "url", "what_it_shows"], "what_it_shows"),
            (["file_name", "split"], None),
        ],
    )
    def test_is_the_likeliest_by_name(self, columns: list[str], chosen: str | None) -> None:
        assert text_column(columns) == chosen


class TestSplitNamed:
    @pytest.mark.parametrize(
        ("said", "split"),
        [("train", Split.TRAIN), (" Held_Out ", Split.HELD_OUT), ("test", Split.HELD_OUT), ("left", None), (3, None)],
    )
    def test_is_ours_or_hugging_faces(self, said: object, split: Split | None) -> None:
        assert split_named(said) == split


class TestHeldOutByPath:
    @pytest.mark.parametrize(
        "name",
        [
            "test/1.png",
            "held_out/cats/1.png",
            "Validation/1.png",
            "val/10_sks dog/1.png",
            "test/0000.parquet:3/1.png",
            "test.parquet:3/image",
            "data/validation-00000-of-00002.parquet:17/1.png",
        ],
    )
    def test_is_what_lies_in_a_folder_or_table_to_measure_on(self, name: str) -> None:
        assert held_out_by_path(name)

    @pytest.mark.parametrize(
        "name",
        [
            "1.png",
            "test",
            "test.png",
            "train/1.png",
            "cats/test/1.png",
            "testing ground/1.png",
            "data/train-00000-of-00002.parquet:17/test.png",
            "test-v3.parquet:1/1.png",
            "https://example.org/test/1.png",
        ],
    )
    def test_is_nothing_else(self, name: str) -> None:
        assert not held_out_by_path(name)
