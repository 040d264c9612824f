"""Every error is a problem with code, hint and pointers; nobody sees a trace."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from api.access import BodyLimitMiddleware
from api.errors import MEDIA_TYPE, STATUS, ProblemMiddleware, install, problem_response
from contracts.failures import FAILURES, FailureCode, FieldError, InvalidInput, PatinaError

SECRET = "password=hunter2"


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    sizes: list[int] = []


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    install(app)
    app.add_middleware(BodyLimitMiddleware, limit_bytes=1000)
    app.add_middleware(ProblemMiddleware)

    @app.get("/refused")
    def refused() -> None:
        raise PatinaError(FailureCode.CONFLICT, "The run has ended.", "Start another.")

    @app.get("/fields")
    def fields() -> None:
        raise InvalidInput([FieldError(pointer="/a", message="is odd"), FieldError(pointer="/b", message="is even")])

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError(SECRET)

    @app.post("/things")
    def things(thing: Thing, limit: int = 1) -> Thing:
        return thing

    return TestClient(app)


class TestStatuses:
    def test_every_failure_code_has_a_status_and_words(self) -> None:
        assert set(STATUS) == set(FailureCode) == set(FAILURES)

    def test_a_missing_key_tells_how_to_send_one(self) -> None:
        answer = problem_response(PatinaError(FailureCode.UNAUTHENTICATED))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


class TestForeseenFailures:
    def test_a_refusal_is_a_problem_with_its_own_words(self, client: TestClient) -> None:
        answer = client.get("/refused")
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.json() == {
            "type": "urn:patina:failure:conflict",
            "title": FAILURES[FailureCode.CONFLICT].message,
            "status": 409,
            "detail": "The run has ended.",
            "code": "conflict",
            "hint": "Start another.",
            "errors": [],
        }

    def test_every_wrong_field_is_listed_at_once(self, client: TestClient) -> None:
        answer = client.get("/fields")
        assert answer.status_code == 422
        assert answer.json()["errors"] == [
            {"pointer": "/a", "message": "is odd"},
            {"pointer": "/b", "message": "is even"},
        ]

    def test_body_and_query_are_checked_together(self, client: TestClient) -> None:
        answer = client.post("/things?limit=x", json={"sizes": [1, "two"], "a/b": 1})
        assert answer.status_code == 422
        assert {e["pointer"] for e in answer.json()["errors"]} == {"/name", "/sizes/1", "/a~1b", "/query/limit"}

    def test_what_is_not_json_is_told_where(self, client: TestClient) -> None:
        answer = client.post("/things", content=b'{"name": ', headers={"content-type": "application/json"})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == ""
        assert "not JSON" in error["message"]

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [("GET", "/nowhere", 404, "not_found"), ("DELETE", "/refused", 405, "method_not_allowed")],
    )
    def test_unknown_addresses_and_methods_are_problems_too(
        self, client: TestClient, method: str, path: str, status: int, code: str
    ) -> None:
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == MEDIA_TYPE


class TestBodyLimit:
    @pytest.mark.parametrize("announced", [True, False])
    def test_too_long_a_body_names_the_setting_that_raises_the_limit(self, client: TestClient, announced: bool) -> None:
        body = b'{"name": "' + b"x" * 2000 + b'"}'
        content = body if announced else iter([body[:900], body[900:]])
        answer = client.post("/things", content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "PATINA_MAX_JSON_BYTES" in answer.json()["hint"]

    @pytest.mark.parametrize(("of", "status"), [("datasets/d", 404), ("datasets/d/images", 413), ("weights", 413)])
    def test_only_an_upload_has_other_limits(self, client: TestClient, of: str, status: int) -> None:
        answer = client.patch(f"/api/v1/{of}/files", files={"files": b"x" * 2000})
        assert answer.status_code == status


class TestUnforeseenFailures:
    def test_the_user_gets_a_reference_and_the_log_the_error(self, client: TestClient) -> None:
        with capture_logs() as logged:
            answer = client.get("/broken")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert SECRET not in answer.text
        assert "RuntimeError" not in answer.text
        (entry,) = logged
        assert entry["reference"] == answer.json()["reference"]
        assert entry["reference"] in answer.json()["hint"]
        assert SECRET in str(entry["exc_info"])
