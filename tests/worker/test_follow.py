"""Reading a growing events.jsonl."""

from __future__ import annotations

from pathlib import Path

from contracts.events import HeldOut
from worker.follow import EventTail


def line(step: int) -> str:
    return HeldOut(at=1.0, step=step, loss=0.5).model_dump_json() + "\n"


def steps(tail: EventTail) -> list[int]:
    return [event.step for event in tail.read()]


class TestEventTail:
    def test_a_file_that_is_not_there_yet_has_no_events(self, tmp_path: Path) -> None:
        assert EventTail(tmp_path / "events.jsonl").read() == []

    def test_each_line_comes_once(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        tail = EventTail(path)
        path.write_text(line(1) + line(2))
        assert steps(tail) == [1, 2]
        with path.open("a") as file:
            file.write(line(3))
        assert steps(tail) == [3]
        assert steps(tail) == []

    def test_half_a_line_waits_for_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        tail = EventTail(path)
        path.write_text(line(1) + line(2)[:10])
        assert steps(tail) == [1]
        path.write_text(line(1) + line(2))
        assert steps(tail) == [2]

    def test_goes_on_after_what_an_earlier_attempt_took(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        path.write_text(line(1) + line(2))
        first = EventTail(path)
        first.read()
        path.write_text(line(1) + line(2) + line(3))
        assert steps(EventTail(path, first.offset)) == [3]

    def test_an_unreadable_line_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        path.write_text(line(1) + '{"type": "no\n' + line(2))
        tail = EventTail(path)
        assert steps(tail) == [1, 2]
        assert tail.offset == path.stat().st_size
