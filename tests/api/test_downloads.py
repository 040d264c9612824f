"""Ranges and validators of content that never changes."""

from __future__ import annotations

import io

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from api.downloads import PIECE_BYTES, blob_response

CONTENT = bytes(range(256)) * (PIECE_BYTES // 256) + b"the end"


def serve(content: bytes) -> TestClient:
    def download(request: Request) -> Response:
        return blob_response(
            request,
            lambda: io.BytesIO(content),
            size_bytes=len(content),
            sha256="abc",
            media_type="application/octet-stream",
            filename="näme-v1.safetensors",
        )

    return TestClient(Starlette(routes=[Route("/file", download)]))


class TestWhole:
    def test_the_content_arrives_as_a_named_attachment(self) -> None:
        answer = serve(CONTENT).get("/file")
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert answer.headers["content-length"] == str(len(CONTENT))
        assert answer.headers["content-disposition"] == (
            "attachment; filename=\"n_me-v1.safetensors\"; filename*=UTF-8''n%C3%A4me-v1.safetensors"
        )
        assert answer.headers["etag"] == '"abc"'

    def test_what_the_client_has_is_not_sent_again(self) -> None:
        answer = serve(CONTENT).get("/file", headers={"if-none-match": '"x", "abc"'})
        assert (answer.status_code, answer.content) == (304, b"")

    def test_an_empty_file_is_whole(self) -> None:
        answer = serve(b"").get("/file")
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


class TestRange:
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ("bytes=0-9", CONTENT[:10]),
            ("bytes=1048570-", CONTENT[1048570:]),
            ("bytes=-7", b"the end"),
            ("bytes=5-99999999", CONTENT[5:]),
        ],
    )
    def test_a_part_is_sent_as_asked(self, asked: str, expected: bytes) -> None:
        answer = serve(CONTENT).get("/file", headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["content-range"].endswith(f"/{len(CONTENT)}")

    def test_a_part_outside_is_refused_with_the_size(self) -> None:
        answer = serve(CONTENT).get("/file", headers={"range": "bytes=99999999-"})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")

    @pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=-"])
    def test_what_is_not_one_range_is_answered_whole(self, asked: str) -> None:
        assert serve(CONTENT).get("/file", headers={"range": asked}).content == CONTENT

    def test_a_part_of_other_content_is_answered_whole(self) -> None:
        answer = serve(CONTENT).get("/file", headers={"range": "bytes=0-1", "if-range": '"older"'})
        assert (answer.status_code, answer.content) == (200, CONTENT)
