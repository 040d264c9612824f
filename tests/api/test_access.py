"""Who may ask: keys, loopback names, origins and body types, before any route runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from api.access import AccessMiddleware
from api.errors import ProblemMiddleware

KEY = "patina_abc_secret"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the owner that the layers in front found."""
    await Request(scope, receive).body()
    answer: Response = JSONResponse({"owner": scope["state"]["owner"]})
    await answer(scope, receive, send)


def make_client(*, loopback_only: bool = True, peer: str = "127.0.0.1", base_url: str = "http://localhost:8470"):  # type: ignore[no-untyped-def]
    guarded = AccessMiddleware(echo, loopback_only, {KEY: "anna"}.get)
    return TestClient(ProblemMiddleware(guarded), base_url=base_url, client=(peer, 5000))


def ask(method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None, **options: object) -> tuple:  # type: ignore[type-arg]
    client = make_client(**options)  # type: ignore[arg-type]
    answer = client.request(method, path, headers=headers)
    return answer.status_code, answer.json().get("owner") or answer.json().get("code")


class TestWithoutAKey:
    def test_this_machine_is_the_local_owner(self) -> None:
        assert ask() == (200, "local")

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.4:8470"])
    def test_a_foreign_host_name_is_refused(self, host: str) -> None:
        assert ask(headers={"host": host}) == (403, "forbidden_origin")

    def test_another_machine_is_refused_even_under_a_loopback_name(self) -> None:
        assert ask(peer="192.168.1.7") == (401, "unauthenticated")

    def test_what_a_proxy_forwards_needs_a_key(self) -> None:
        assert ask(headers={"x-forwarded-for": "203.0.113.9"}) == (401, "unauthenticated")

    def test_a_server_open_to_the_network_answers_only_its_health(self) -> None:
        assert ask(loopback_only=False) == (401, "unauthenticated")
        assert ask(path="/healthz", loopback_only=False) == (200, None)


class TestAddress:
    @pytest.mark.parametrize("path", ["/api/v1/datasets/a%00", "/api/v1/datasets/a/images?cursor=%00"])
    def test_one_no_database_could_look_for_is_refused_before_any_does(self, path: str) -> None:
        assert ask(path=path) == (422, "invalid_input")


class TestWithAKey:
    def test_the_key_decides_the_owner_also_on_loopback(self) -> None:
        assert ask(headers={"authorization": f"Bearer {KEY}"}) == (200, "anna")

    @pytest.mark.parametrize("value", ["Bearer patina_abc_wrong", "Basic dXNlcg==", "Bearer", "Bearer  ", ""])
    def test_a_wrong_key_is_refused_even_on_loopback(self, value: str) -> None:
        assert ask(headers={"authorization": value}) == (401, "unauthenticated")

    def test_a_key_works_from_elsewhere_and_behind_a_proxy(self) -> None:
        headers = {"authorization": f"Bearer {KEY}", "x-forwarded-for": "203.0.113.9", "host": "patina.example"}
        assert ask(headers=headers, loopback_only=False, peer="203.0.113.9") == (200, "anna")


class TestWrites:
    @pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost:8470", "sec-fetch-site": "same-origin"}])
    def test_the_servers_own_pages_and_plain_clients_may_write(self, headers: dict[str, str]) -> None:
        assert ask("POST", headers=headers) == (200, "local")

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://localhost:3000"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "http://localhost:8470", "sec-fetch-site": "cross-site"},
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
    def test_another_sites_write_is_refused(self, method: str, headers: dict[str, str]) -> None:
        assert ask(method, headers=headers) == (403, "forbidden_origin")

    def test_another_site_may_not_write_with_a_key_either(self) -> None:
        headers = {"authorization": f"Bearer {KEY}", "origin": "https://evil.example"}
        assert ask("POST", headers=headers) == (403, "forbidden_origin")

    @pytest.mark.parametrize(
        ("path", "content_type", "status"),
        [
            ("/api/v1/runs", "application/json", 200),
            ("/api/v1/runs", "application/json; charset=utf-8", 200),
            ("/api/v1/runs", "text/plain", 415),
            ("/api/v1/runs", "application/x-www-form-urlencoded", 415),
            ("/api/v1/runs", "multipart/form-data; boundary=x", 415),
            ("/api/v1/runs", "", 415),
            ("/api/v1/datasets/d/files", "multipart/form-data; boundary=x", 200),
            ("/api/v1/datasets/d/files", "text/plain", 415),
            ("/api/v1/datasets/d/images/files", "multipart/form-data; boundary=x", 415),
            ("/api/v1/datasets/d/images/files", "application/json", 200),
            ("/api/v1/datasets/files", "multipart/form-data; boundary=x", 415),
        ],
    )
    def test_a_body_is_json_or_files(self, path: str, content_type: str, status: int) -> None:
        answer = make_client().post(path, content=b"{}", headers={"content-type": content_type})
        assert answer.status_code == status

    def test_a_body_of_unknown_length_is_a_body(self) -> None:
        answer = make_client().post("/", content=iter([b"{}"]), headers={"content-type": "text/plain"})
        assert answer.status_code == 415


class TestAnswers:
    def test_no_answer_lets_another_site_read_it(self) -> None:
        answer = make_client().get("/", headers={"origin": "https://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
