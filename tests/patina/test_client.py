from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from contracts.failures import FailureCode, InvalidInput, PatinaError
from patina.client import RECONNECTS, Client


def _client(answer: Callable[[httpx.Request], httpx.Response], pauses: list[float] | None = None) -> Client:
    waited = [] if pauses is None else pauses
    return Client("http://patina.test", "patina_k_s", httpx.MockTransport(answer), waited.append)


def _sse(*messages: tuple[int | None, str, dict[str, object]]) -> str:
    return "".join(
        (f"id: {number}\r\n" if number else "")
        + f"event: {event}\r\ndata: {json.dumps(data, ensure_ascii=False)}\r\n\r\n"
        for number, event, data in messages
    )


class TestRefusals:
    def test_a_problem_becomes_the_same_failure_with_every_field(self) -> None:
        errors = [{"pointer": "/name", "message": "too long"}, {"pointer": "/steps", "message": "too few"}]
        problem = {"code": "invalid_input", "detail": "No.", "hint": "Do.", "errors": errors}
        with pytest.raises(InvalidInput) as caught:
            _client(lambda r: httpx.Response(422, json=problem)).create_dataset("x")
        assert [(e.pointer, e.message) for e in caught.value.errors] == [("/name", "too long"), ("/steps", "too few")]
        assert (caught.value.message, caught.value.hint) == ("No.", "Do.")

    def test_a_code_of_a_newer_server_keeps_its_words(self) -> None:
        problem = {"code": "moon_too_full", "detail": "Too full.", "hint": "Wait."}
        with pytest.raises(PatinaError, match=r"Too full\. Wait\.") as caught:
            _client(lambda r: httpx.Response(409, json=problem)).runs()
        assert caught.value.code is FailureCode.INTERNAL

    def test_another_program_on_the_port_is_said_to_be_one(self) -> None:
        with pytest.raises(PatinaError, match="another program"):
            _client(lambda r: httpx.Response(404, text="<html>nginx</html>")).bases()

    def test_no_server_is_unreachable(self) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        with pytest.raises(PatinaError, match=r"http://patina\.test does not answer") as caught:
            _client(refuse).bases()
        assert caught.value.code is FailureCode.SERVER_UNREACHABLE


class TestRequests:
    def test_the_key_is_sent(self) -> None:
        sent: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            sent.append(request.headers["authorization"])
            return httpx.Response(200, json={"items": [], "next_cursor": None})

        _client(answer).runs()
        assert sent == ["Bearer patina_k_s"]

    def test_lists_are_read_to_their_last_page(self) -> None:
        pages = {None: (["a", "b"], "c1"), "c1": (["c"], None)}

        def answer(request: httpx.Request) -> httpx.Response:
            items, following = pages[request.url.params.get("cursor")]
            return httpx.Response(200, json={"items": items, "next_cursor": following})

        assert _client(answer).datasets() == ["a", "b", "c"]

    def test_what_a_list_is_narrowed_to_holds_for_every_page(self) -> None:
        asked: list[dict[str, str]] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(dict(request.url.params))
            return httpx.Response(200, json={"items": [], "next_cursor": "c1" if len(asked) == 1 else None})

        _client(answer).runs("failed")
        assert asked == [{"status": "failed"}, {"status": "failed", "cursor": "c1"}]

    def test_uploads_keep_the_names_within_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_bytes(b"PIXELS")
        bodies: list[bytes] = []

        def answer(request: httpx.Request) -> httpx.Response:
            bodies.append(request.read())
            return httpx.Response(202, json={"files": []})

        _client(answer).upload("ds_1", [("set/x.png", tmp_path / "x.png")])
        assert b'name="files"; filename="set/x.png"' in bodies[0]
        assert b"PIXELS" in bodies[0]


class TestDownloads:
    def test_the_file_appears_when_it_is_whole(self, tmp_path: Path) -> None:
        count = _client(lambda r: httpx.Response(200, content=b"weights")).download_weights("n", "1", tmp_path / "f")
        assert count == 7
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    def test_a_broken_download_leaves_the_old_file_and_nothing_beside_it(self, tmp_path: Path) -> None:
        def half() -> Iterator[bytes]:
            yield b"hal"
            raise httpx.ReadError("gone")

        (tmp_path / "f").write_bytes(b"old")
        with pytest.raises(PatinaError):
            _client(lambda r: httpx.Response(200, content=half())).download_weights("n", "1", tmp_path / "f")
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]

    @pytest.mark.parametrize("name", ["nowhere/f", "file/f", "folder", "folder/..", "x" * 300])
    def test_a_file_that_cannot_be_written_is_named(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_bytes(b"old")
        (tmp_path / "folder").mkdir()
        with pytest.raises(InvalidInput) as caught:
            _client(lambda r: httpx.Response(200, content=b"weights")).download_weights("n", "1", tmp_path / name)
        assert caught.value.message.startswith(f"{tmp_path / name} cannot be written: ")
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


class TestRunEvents:
    def test_it_ends_with_the_runs_end(self) -> None:
        stream = _sse((1, "step", {"a": 1}), (None, "status", {"status": "succeeded"}))
        found = list(_client(lambda r: httpx.Response(200, text=stream)).run_events("run_1"))
        assert [(m.id, m.event) for m in found] == [("1", "step"), (None, "status")]

    def test_what_other_programs_take_for_the_end_of_a_line_is_part_of_an_event(self) -> None:
        said = {"file": "a\u2028b\u0085c.png"}
        stream = _sse((1, "progress", said), (None, "status", {"status": "succeeded"}))
        first, _ = _client(lambda r: httpx.Response(200, text=stream)).run_events("run_1")
        assert json.loads(first.data) == said

    def test_a_stream_that_breaks_off_is_taken_up_after_the_last_event(self) -> None:
        asked: list[str | None] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.headers.get("last-event-id"))
            if len(asked) == 1:
                return httpx.Response(200, text=_sse((None, "status", {"status": "training"}), (7, "step", {})))
            if len(asked) == 2:
                raise httpx.ConnectError("restarting")
            return httpx.Response(200, text=_sse((8, "step", {}), (None, "status", {"status": "failed"})))

        pauses: list[float] = []
        found = list(_client(answer, pauses).run_events("run_1"))
        assert asked == [None, "7", "7"]
        assert [m.id for m in found if m.event == "step"] == ["7", "8"]
        assert len(pauses) == 2

    def test_an_answer_without_content_means_that_all_was_read(self) -> None:
        assert list(_client(lambda r: httpx.Response(204)).run_events("run_1", after=9)) == []

    def test_it_gives_up_on_a_server_that_stays_away(self) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        pauses: list[float] = []
        with pytest.raises(PatinaError) as caught:
            list(_client(refuse, pauses).run_events("run_1"))
        assert caught.value.code is FailureCode.SERVER_UNREACHABLE
        assert len(pauses) == RECONNECTS

    def test_a_refusal_is_raised_at_once(self) -> None:
        with pytest.raises(PatinaError) as caught:
            list(_client(lambda r: httpx.Response(404, json={"code": "not_found"})).run_events("run_1"))
        assert caught.value.code is FailureCode.NOT_FOUND
