"""Metadata files as they are offered: metadata.jsonl, metadata.csv, kohya's JSON."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from catalog.datasets.ingest import MetadataLine
from worker.metadata import Unusable, read_metadata

NOT_TEXT = "the line is neither UTF-8 nor UTF-16 text; save the file as UTF-8"


def lines(data: bytes, name: str = "metadata.jsonl") -> list[MetadataLine]:
    return read_metadata(name, data).lines


class TestJsonLines:
    def test_a_line_gives_name_and_text(self) -> None:
        (line,) = lines(b'{"file_name": "./x/a.png", "text": "a cat", "mood": 3}\r\n\n')
        assert (line.number, line.file_name, line.text) == (1, "x/a.png", "a cat")

    def test_a_name_cannot_lead_out_of_the_folder(self) -> None:
        (line,) = lines(b'{"file_name": "../../a.png", "text": "x"}')
        assert line.file_name == "a.png"

    def test_each_unusable_line_keeps_its_number_and_reason(self) -> None:
        found = lines(b'not json\n{"file_name": "a.png", "text": "ok"}\n{"file_name": "b.png"}\n[1]\n{"text": "x"}\n')
        assert [(line.number, line.text, line.reason) for line in found] == [
            (1, None, "the line is not JSON"),
            (2, "ok", None),
            (3, None, 'the line has no "text"'),
            (4, None, 'the line has no "file_name"'),
            (5, None, 'the line has no "file_name"'),
        ]

    def test_a_caption_that_is_too_long_is_told(self) -> None:
        (line,) = lines(b'{"file_name": "a.png", "text": "' + b"x" * 10_001 + b'"}')
        assert line.reason is not None
        assert "longer than" in line.reason

    def test_what_json_can_say_and_no_text_can_hold_is_replaced(self) -> None:
        (line,) = lines(b'{"file_name": "a\\ud800\\u0000.png", "text": "a \\ud800 cat"}')
        assert (line.file_name, line.text) == ("a.png", "a ? cat")

    def test_the_likeliest_column_is_taken_and_said(self) -> None:
        found = read_metadata("metadata.jsonl", b'{"file_name": "a.png", "mood": "sad", "prompt": "a cat"}')
        assert found.lines[0].text == "a cat"
        assert found.note == "captions from 'prompt'"

    def test_any_other_column_of_text_does(self) -> None:
        found = read_metadata("metadata.jsonl", b'{"file_name": "a.png", "license": "x", "what": "a cat"}')
        assert (found.lines[0].text, found.note) == ("a cat", "captions from 'what'")

    def test_concept_and_repeats_are_kept(self) -> None:
        (line,) = lines(b'{"file_name": "a.png", "text": "x", "concept": "dog", "repeats": 3}')
        assert (line.concept, line.repeats) == ("dog", 3)

    def test_a_line_of_any_length_is_not_parsed(self) -> None:
        long = b'{"file_name": "a.png", "text": "x", "more": [' + b"[]," * 400_000 + b"[]]}\n"
        found = lines(long + b'{"file_name": "b.png", "text": "ok"}')
        assert [(line.text, line.reason) for line in found] == [(None, "the line is longer than 1 MB"), ("ok", None)]

    def test_what_other_columns_hold_is_not_held(self) -> None:
        more = ",".join(f'"{n}": {n}' for n in range(1000, 1400))
        data = "".join(f'{{"file_name": "{n}.png", "text": "x", {more}}}\n' for n in range(1000)).encode()
        tracemalloc.start()
        try:
            assert len(lines(data)) == 1000
            assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
    def test_a_line_that_is_no_text_is_told_and_costs_no_other(self, encoding: str) -> None:
        found = lines(
            '{"file_name": "a.png", "text": "café"}'.encode(encoding) + b'\n{"file_name": "b.png", "text": "\xc3\xa9"}'
        )
        assert [(line.text, line.reason) for line in found] == [(None, NOT_TEXT), ("é", None)]

    def test_a_file_without_lines_is_unusable(self) -> None:
        with pytest.raises(Unusable, match="no lines"):
            lines(b"\n \n")


class TestCsv:
    def test_a_quoted_caption_may_run_over_lines(self) -> None:
        found = lines(b'file_name,text,repeats\r\na.png,"a cat,\nin the sun",2\r\nb.png,a dog,\r\n', "metadata.csv")
        assert [(line.file_name, line.text, line.repeats) for line in found] == [
            ("a.png", "a cat,\nin the sun", 2),
            ("b.png", "a dog", None),
        ]

    def test_a_short_row_keeps_its_reason_and_costs_no_other(self) -> None:
        found = lines(b"file_name,text\na.png\nb.png,a dog\n", "metadata.csv")
        assert [(line.text, line.reason) for line in found] == [(None, 'the line has no "text"'), ("a dog", None)]

    def test_a_caption_with_commas_and_no_quotes_is_told_and_not_cut(self) -> None:
        found = lines(b"file_name,text\na.png,1girl, solo, long hair\nb.png,a dog,,\n", "metadata.csv")
        assert [(line.number, line.text) for line in found] == [(2, None), (3, "a dog")]
        assert "more cells than the header" in str(found[0].reason)

    def test_a_field_without_end_is_told(self) -> None:
        found = lines(b'file_name,text\na.png,ok\nb.png,"' + b"x" * 200_000, "metadata.csv")
        assert found[0].text == "ok"
        assert "not CSV" in str(found[1].reason)

    def test_a_row_of_any_length_is_not_parsed_and_costs_no_other(self) -> None:
        found = lines(b"file_name,text\na.png,ok\n" + b"x," * 600_000 + b"\nb.png,fine\n", "metadata.csv")
        assert [line.text for line in found] == ["ok", None, "fine"]
        assert "longer than 1 MB" in str(found[1].reason)

    def test_a_row_as_spreadsheets_save_it_for_windows_is_told_and_not_trained_on_mangled(self) -> None:
        found = lines("file_name,text,größe\na.png,café “nice”,1\nb.png,a dog,2\n".encode("cp1252"), "metadata.csv")
        assert [(line.number, line.text, line.reason) for line in found] == [(2, None, NOT_TEXT), (3, "a dog", None)]

    def test_wide_text_that_does_not_say_so_is_told(self) -> None:
        found = lines("file_name,text\na.png,a cat\n".encode("utf-16-le"), "metadata.csv")
        assert {line.reason for line in found} == {NOT_TEXT}

    def test_utf_16_as_spreadsheets_save_it(self) -> None:
        assert lines("file_name,text\na.png,a cat\n".encode("utf-16"), "metadata.csv")[0].text == "a cat"


class TestKohya:
    def test_caption_and_tags_are_joined_as_it_trains_them(self) -> None:
        data = {"img/a": {"caption": "a cat", "tags": "sun, grass", "train_resolution": [64, 64]}, "b": {"tags": "dog"}}
        found = lines(json.dumps(data).encode(), "meta_cap.json")
        assert [(line.file_name, line.text) for line in found] == [("img/a", "a cat, sun, grass"), ("b", "dog")]

    def test_an_entry_that_says_nothing_keeps_its_reason(self) -> None:
        found = lines(b'{"a": {"caption": "ok"}, "b": {}, "c": 3, "..": {"caption": "x"}}', "meta.json")
        assert [line.text is None and bool(line.reason) for line in found] == [False, True, True, True]

    @pytest.mark.parametrize("data", [b"[1]", b"{}", b"not json", b'{"version": 3}', b"[" * 100_000, b"\xff\xfe\x00"])
    def test_other_json_is_unusable(self, data: bytes) -> None:
        with pytest.raises(Unusable):
            lines(data, "meta.json")

    def test_a_document_too_long_to_hold_is_refused_unread(self) -> None:
        with pytest.raises(Unusable, match=r"metadata\.jsonl"):
            lines(b" " * (16 * 1024**2 + 1), "meta.json")
