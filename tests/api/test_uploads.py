"""Files from the wire: bounded, each judged by itself, nothing half-read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from api.errors import ProblemMiddleware
from api.uploads import (
    WRITE_BYTES,
    UploadLimits,
    clean_name,
    receive_files,
    remove_leftovers,
    temporary_folder,
)
from contracts.failures import InvalidInput

LIMITS = UploadLimits(request_bytes=5_000_000, file_bytes=2_500_000, files=4)
BOUNDARY = "frontier"


def part(disposition: str, content: bytes) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def files(*named: tuple[str, bytes]) -> bytes:
    return b"".join(part(f'name="files"; filename="{name}"', content) for name, content in named) + END


END = f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def client(spool: Path) -> TestClient:
    async def receive(request: Request) -> JSONResponse:
        with temporary_folder(spool) as folder:
            received = await receive_files(request, folder, LIMITS)
            return JSONResponse(
                [
                    {
                        "name": one.name,
                        "bytes": one.bytes,
                        "start": one.path.read_bytes()[:20].decode("latin-1"),
                        "stored": one.path.stat().st_size,
                        "problem": one.problem and one.problem.code,
                    }
                    for one in received
                ]
            )

    routes = [Route("/files", receive, methods=["POST"])]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(ProblemMiddleware)]))


def send(client: TestClient, body: bytes | Iterator[bytes]) -> tuple[int, Any]:
    answer = client.post("/files", content=body, headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
    return answer.status_code, answer.json()


class TestFiles:
    def test_every_file_arrives_with_its_name_and_bytes(self, client: TestClient) -> None:
        big = b"b" * (WRITE_BYTES * 2 + 17)
        status, received = send(client, files(("a.png", b"one\r\n--front"), ("dir/b c.jpg", big)))
        assert status == 200
        assert [(r["name"], r["stored"], r["problem"]) for r in received] == [
            ("a.png", 12, None),
            ("dir/b c.jpg", len(big), None),
        ]
        assert received[0]["start"] == "one\r\n--front"

    def test_a_boundary_cut_by_the_network_is_still_found(self, client: TestClient) -> None:
        body = files(("a.png", b"x" * 50), ("b.png", b"y" * 50))
        status, received = send(client, (body[i : i + 1] for i in range(len(body))))
        assert (status, [r["stored"] for r in received]) == (200, [50, 50])

    def test_a_file_over_the_limit_is_marked_and_the_others_are_kept(self, client: TestClient) -> None:
        status, received = send(
            client, files(("a.png", b"a"), ("big.png", b"x" * (LIMITS.file_bytes + 1)), ("c.png", b"c"))
        )
        assert status == 200
        assert [(r["name"], r["problem"]) for r in received] == [
            ("a.png", None),
            ("big.png", "too_large"),
            ("c.png", None),
        ]

    def test_the_empty_field_of_a_browser_form_is_no_file(self, client: TestClient) -> None:
        status, received = send(client, files(("", b""), ("a.png", b"a")))
        assert (status, [r["name"] for r in received]) == (200, ["a.png"])

    def test_nothing_stays_in_the_temporary_folder(self, client: TestClient, spool: Path) -> None:
        send(client, files(("a.png", b"a")))
        assert list(spool.iterdir()) == []


class TestLeftovers:
    def test_only_what_is_old_is_removed(self, tmp_path: Path) -> None:
        old, young = tmp_path / "upload-old", tmp_path / "upload-young"
        for folder in (old, young):
            folder.mkdir()
            (folder / "000000").write_bytes(b"x")
        os.utime(old, (0, 0))
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == [young]


class TestRefusals:
    @pytest.mark.parametrize("announced", [True, False])
    def test_too_large_a_request_names_the_setting(self, client: TestClient, announced: bool) -> None:
        body = files(*[(f"{i}.png", b"x" * 2_000_000) for i in range(3)])
        status, problem = send(client, body if announced else iter([body[:3_000_000], body[3_000_000:]]))
        assert (status, problem["code"]) == (413, "too_large")
        assert "PATINA_MAX_UPLOAD_BYTES" in problem["hint"]

    def test_too_many_files_names_the_setting(self, client: TestClient) -> None:
        status, problem = send(client, files(*[(f"{i}.png", b"x") for i in range(5)]))
        assert (status, problem["code"]) == (413, "too_large")
        assert "PATINA_MAX_UPLOAD_FILES" in problem["hint"]

    @pytest.mark.parametrize(
        "body", [b"", b"not multipart", files(("a.png", b"a"))[:-8], part('name="files"; filename="a.png"', b"a")]
    )
    def test_a_body_that_breaks_off_is_refused(self, client: TestClient, body: bytes) -> None:
        status, problem = send(client, body)
        assert (status, problem["code"]) == (422, "invalid_input")

    @pytest.mark.parametrize("boundary", ["", "b" * 500])
    def test_a_boundary_no_client_chooses_is_refused(self, client: TestClient, boundary: str) -> None:
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        answer = client.post("/files", content=files(("a.png", b"a")), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")

    def test_a_client_that_hangs_up_is_no_error_of_the_server(self, tmp_path: Path) -> None:
        headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
        messages = iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> dict[str, Any]:
            return next(messages)

        request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
        with pytest.raises(InvalidInput):
            asyncio.run(receive_files(request, tmp_path, LIMITS))

    def test_a_field_that_is_no_file_is_named(self, client: TestClient) -> None:
        status, problem = send(client, part('name="caption"', b"a cat") + END)
        assert (status, problem["errors"][0]["pointer"]) == (422, "/caption")

    def test_a_request_without_a_file_is_refused(self, client: TestClient) -> None:
        status, problem = send(client, END)
        assert (status, problem["errors"][0]["pointer"]) == (422, "/files")


class TestNames:
    @pytest.mark.parametrize(
        ("raw", "name"),
        [
            (b"cat.png", "cat.png"),
            (b"set\\cat.png", "set/cat.png"),
            (b"/etc/passwd", "etc/passwd"),
            (b"a\x00b\n.png", "ab.png"),
            ("e\u0301.png".encode(), "\u00e9.png"),
            (b"\xff.png", "\ufffd.png"),
            (b"x" * 500 + b".png", "x" * 396 + ".png"),
        ],
    )
    def test_a_name_is_text_for_the_ledger(self, raw: bytes, name: str) -> None:
        assert clean_name(raw) == name
