"""Captions as they are offered: sidecars and metadata.jsonl."""

from __future__ import annotations

from worker.captions import metadata_lines, sidecar_text


class TestSidecar:
    def test_a_byte_order_mark_is_no_part_of_it(self) -> None:
        assert sidecar_text("\ufeffa cat".encode()) == "a cat"

    def test_what_is_not_text_is_none(self) -> None:
        assert sidecar_text(b"\xff\xfe\x00\x81") is None


class TestMetadataLines:
    def test_a_line_gives_name_and_text(self) -> None:
        (line,) = metadata_lines(b'{"file_name": "./x/a.png", "text": "a cat", "mood": 3}\r\n\n')
        assert (line.number, line.file_name, line.text) == (1, "x/a.png", "a cat")

    def test_a_name_cannot_lead_out_of_the_folder(self) -> None:
        (line,) = metadata_lines(b'{"file_name": "../../a.png", "text": "x"}')
        assert line.file_name == "a.png"

    def test_each_unusable_line_keeps_its_number_and_reason(self) -> None:
        lines = metadata_lines(
            b'not json\n{"file_name": "a.png", "text": "ok"}\n{"file_name": "b.png"}\n[1]\n{"text": "x"}\n'
        )
        assert [(line.number, line.text, line.reason) for line in lines] == [
            (1, None, "the line is not JSON"),
            (2, "ok", None),
            (3, None, 'the line has no "text"'),
            (4, None, 'the line has no "file_name"'),
            (5, None, 'the line has no "file_name"'),
        ]

    def test_a_caption_that_is_too_long_is_told(self) -> None:
        (line,) = metadata_lines(b'{"file_name": "a.png", "text": "' + b"x" * 10_001 + b'"}')
        assert line.reason is not None
        assert "longer than" in line.reason

    def test_what_json_can_say_and_no_text_can_hold_is_replaced(self) -> None:
        (line,) = metadata_lines(b'{"file_name": "a\\ud800\\u0000.png", "text": "a \\ud800 cat"}')
        assert (line.file_name, line.text) == ("a.png", "a ? cat")
