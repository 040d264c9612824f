from __future__ import annotations

from patina.events import Message, messages


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
