"""Following a run: every event once, in order, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest

from api.streams import LARGEST_ID, Entry, Reading, follow, last_event_id
from contracts.failures import InvalidInput


def entry(seq: int) -> Entry:
    return Entry(seq, "step", f'{{"step": {seq}}}')


def collect(read: Callable[[int], Reading], after: int = 0) -> list[tuple[str | None, str | None]]:
    async def run() -> list[tuple[str | None, str | None]]:
        return [(event.event, event.id) async for event in follow(read, after, 0.001, anyio.Event())]

    return asyncio.run(run())


class TestFollow:
    def test_an_ended_run_is_told_whole_and_then_its_status(self) -> None:
        told = collect(lambda after: Reading([entry(1), entry(2)], "succeeded", "{}", ended=True, more=False))
        assert told == [("step", "1"), ("step", "2"), ("status", None)]

    def test_each_look_starts_after_the_last_event_told(self) -> None:
        asked: list[int] = []

        def read(after: int) -> Reading:
            asked.append(after)
            if after < 9:
                return Reading([entry(after + 1), entry(after + 2)], "training", "{}", ended=False, more=after < 7)
            return Reading([], "succeeded", "{}", ended=True, more=False)

        told = collect(read, after=5)
        assert asked == [5, 7, 9]
        assert [event for event in told if event[0] == "step"] == [("step", str(n)) for n in (6, 7, 8, 9)]

    def test_a_status_is_told_once_until_it_changes(self) -> None:
        statuses = iter(["queued", "queued", "training", "training", "failed"])

        def read(after: int) -> Reading:
            status = next(statuses)
            return Reading([], status, status, ended=status == "failed", more=False)

        async def run() -> list[str]:
            return [str(event.data) async for event in follow(read, 0, 0.001, anyio.Event())]

        assert asyncio.run(run()) == ["queued", "training", "failed"]

    def test_an_end_is_not_told_before_what_is_still_waiting(self) -> None:
        def read(after: int) -> Reading:
            return Reading([entry(after + 1)], "succeeded", "{}", ended=True, more=after < 2)

        assert collect(read) == [("step", "1"), ("step", "2"), ("step", "3"), ("status", None)]


class TestClosing:
    def test_a_server_that_stops_ends_the_stream_without_waiting(self) -> None:
        async def run() -> list[str | None]:
            closing = anyio.Event()
            told = []
            read = lambda after: Reading([], "training", "{}", ended=False, more=False)  # noqa: E731 - one line says it
            async for event in follow(read, 0, 3600, closing):
                told.append(event.event)
                closing.set()
            return told

        assert asyncio.run(run()) == ["status"]


class TestLastEventId:
    def test_none_is_the_beginning(self) -> None:
        assert (last_event_id(None), last_event_id(""), last_event_id("17")) == (0, 0, 17)

    @pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 30, "²", str(LARGEST_ID + 1)])
    def test_what_was_never_given_out_is_refused(self, value: str) -> None:
        with pytest.raises(InvalidInput):
            last_event_id(value)
