"""Captions by name: sidecars and metadata.jsonl."""

from __future__ import annotations

import pytest

from worker.captions import is_metadata_name, read_metadata, sidecar_text, stem, tidy_name


class TestTidyName:
    @pytest.mark.parametrize(
        ("given", "tidy"),
        [
            ("../../a.png", "a.png"),
            ("/etc/a.png", "etc/a.png"),
            ("c:\\pictures\\a.png", "c:/pictures/a.png"),
            ("./x//a.png", "x/a.png"),
            ("..", "unnamed"),
        ],
    )
    def test_is_plain_and_relative(self, given: str, tidy: str) -> None:
        assert tidy_name(given) == tidy

    def test_is_cut_at_the_front(self) -> None:
        assert len(tidy_name("a" * 9000 + ".png")) == 500
        assert tidy_name("a" * 9000 + ".png").endswith(".png")


class TestStem:
    def test_a_picture_and_its_sidecar_share_it(self) -> None:
        assert stem("x/a.b.png") == stem("x/a.b.txt") == "x/a.b"
        assert stem("x/a.png") != stem("y/a.png")


class TestSidecar:
    def test_is_cleaned(self) -> None:
        assert sidecar_text("\ufeff a  cat\non a\tmat \n".encode()) == "a cat on a mat"

    def test_what_is_not_text_is_none(self) -> None:
        assert sidecar_text(b"\xff\xfe\x00\x81") is None
        assert sidecar_text(b"a" * 10_001) is None


class TestMetadata:
    def test_gives_captions_by_name_in_its_own_folder(self) -> None:
        found = read_metadata("train/metadata.jsonl", b'{"file_name": "a.png", "text": " a  cat "}\n\n')
        assert found.captions == {"train/a.png": "a cat"}
        assert found.problems == ()

    def test_a_name_cannot_lead_out_of_the_folder(self) -> None:
        found = read_metadata("metadata.jsonl", b'{"file_name": "../../a.png", "text": "x"}')
        assert found.captions == {"a.png": "x"}

    def test_each_unusable_line_is_told_and_the_others_count(self) -> None:
        lines = b'not json\n{"file_name": "a.png", "text": "ok"}\n{"file_name": "b.png"}\n[1]\n'
        found = read_metadata("metadata.jsonl", lines)
        assert found.captions == {"a.png": "ok"}
        assert [p.split(" ")[1] for p in found.problems] == ["1", "3", "4"]

    def test_is_known_by_name_in_any_folder(self) -> None:
        assert is_metadata_name("a/b/Metadata.JSONL")
        assert not is_metadata_name("a/metadata.jsonl.png")
