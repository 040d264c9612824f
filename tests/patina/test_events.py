from __future__ import annotations

import pytest

from patina.events import Message, lines, messages


class TestLines:
    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_end_as_the_standard_says_wherever_the_stream_is_cut(self, end: str, size: int) -> None:
        said = ["data: a\u2028b\x85c\x0bd\x1ce", "", "", "id: 1", ""]
        stream = "".join(line + end for line in said) + "cut off"
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert list(lines(pieces)) == said
        assert list(lines([*said[0], end])) == said[:1]


class TestMessages:
    def test_lines_become_messages_and_heartbeats_none(self) -> None:
        lines = [
            "id: 3",
            "event: step",
            'data: {"a":1}',
            "",
            ": ping",
            "",
            "data: one",
            "data: two",
            "",
            "data: cut off",
        ]
        assert list(messages(lines)) == [Message("3", "step", '{"a":1}'), Message(None, "message", "one\ntwo")]
