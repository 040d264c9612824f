"""Generations and pictures over HTTP: resolved, waited for, cancelled; nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.routes.generations import preferred_wait_s
from catalog.generations import service

Headers = Callable[[str], dict[str, str]]
PICTURE = b"a png"


def finish(make: Any) -> None:
    """The engine takes the next generation and stores its pictures."""
    claim = make.claim("generate")
    with make.parts.database.session() as session:
        request = service.begin(session, claim).request
    key, sha256 = make.blob("generated", claim.owner, claim.subject_id, content=PICTURE)
    made = service.MadeImage(request.seed, request.width, request.height, sha256, key, len(PICTURE))
    with make.parts.database.session() as session:
        service.complete(session, claim, [made], seconds=0.5)


@pytest.fixture
def weights(client: TestClient, make: Any) -> None:
    make.base()
    make.frozen()
    client.post("/api/v1/runs", json={"dataset": "style", "base": "emoji", "recipe": "quick"})
    make.publish(make.begin())


class TestCreate:
    def test_everything_is_resolved_when_it_is_asked_for(self, client: TestClient, weights: None) -> None:
        answer = client.post("/api/v1/generations", json={"prompt": "a cat", "weights": [{"weights": "lora"}]})
        assert answer.status_code == 202
        made = answer.json()
        assert answer.headers["location"] == f"/api/v1/generations/{made['id']}"
        assert (made["status"], made["base"]["name"], made["images"]) == ("queued", "emoji", [])
        assert (made["request"]["width"], made["request"]["height"]) == (64, 64)
        assert made["request"]["seed"] is not None
        assert [(w["name"], w["version"], w["scale"]) for w in made["weights"]] == [("lora", 1, 1.0)]
        assert client.get(answer.headers["location"]).json() == made

    def test_weights_on_another_base_are_refused_with_both_identities(
        self, client: TestClient, weights: None, make: Any
    ) -> None:
        make.base("other", "e" * 64)
        request = {"prompt": "a cat", "base": "other", "weights": [{"weights": "lora@latest"}]}
        answer = client.post("/api/v1/generations", json=request)
        assert (answer.status_code, answer.json()["code"]) == (409, "base_mismatch")
        assert "a" * 64 in answer.json()["detail"]
        assert "e" * 64 in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("request_body", "status"),
        [
            ({"prompt": "x", "base": "none"}, 422),
            ({"prompt": "x", "weights": [{"weights": "none"}]}, 404),
            ({"prompt": ""}, 422),
            ({"prompt": "x", "width": 65}, 422),
            ({"prompt": "x", "weights": [{"weights": "../lora"}]}, 422),
            ({"prompt": "x", "steps": 9999, "images": 99}, 422),
        ],
    )
    def test_what_cannot_be_made_is_refused(
        self, client: TestClient, weights: None, request_body: dict[str, Any], status: int
    ) -> None:
        assert client.post("/api/v1/generations", json=request_body).status_code == status


class TestWait:
    def test_the_answer_holds_the_pictures_when_they_come_in_time(
        self, client: TestClient, weights: None, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queued = threading.Event()

        def engine() -> None:
            assert queued.wait(30)
            finish(make)

        # The bell rings after the commit: from then on the engine can take it.
        monkeypatch.setattr(make.parts.database, "_on_commit", lambda _queue: queued.set())
        worker = threading.Thread(target=engine)
        worker.start()
        answer = client.post("/api/v1/generations", json={"prompt": "a cat"}, headers={"prefer": "wait=60"})
        worker.join()
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        assert answer.headers["preference-applied"] == "wait=60"
        (image,) = answer.json()["images"]
        picture = client.get(image["url"])
        assert (picture.content, picture.headers["content-type"]) == (PICTURE, "image/png")

    def test_the_answer_is_a_promise_when_they_do_not(self, client: TestClient, weights: None) -> None:
        answer = client.post("/api/v1/generations", json={"prompt": "a cat"}, headers={"prefer": "wait=0.05"})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        assert answer.headers["location"].endswith(answer.json()["id"])

    def test_no_client_waits_longer_than_the_server_allows(self, client: TestClient, weights: None, make: Any) -> None:
        object.__setattr__(make.parts.settings, "max_wait_s", 0.05)
        answer = client.post("/api/v1/generations", json={"prompt": "a cat"}, headers={"prefer": "wait=600"})
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "wait=0.05"

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            (None, 0),
            ("", 0),
            ("wait=10", 10),
            ("respond-async, Wait = 2.5", 2.5),
            ('wait="7"; foo=1', 7),
            ("wait=-1", 0),
            ("wait=x", 0),
            ("awaits=3", 0),
        ],
    )
    def test_the_header_is_read_as_the_standard_writes_it(self, header: str | None, seconds: float) -> None:
        assert preferred_wait_s(header) == seconds


class TestCancel:
    def test_a_queued_generation_is_cancelled_at_once(self, client: TestClient, weights: None) -> None:
        made = client.post("/api/v1/generations", json={"prompt": "a cat"}).json()
        answer = client.post(f"/api/v1/generations/{made['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")

    def test_what_is_done_cannot_be_cancelled(self, client: TestClient, weights: None, make: Any) -> None:
        made = client.post("/api/v1/generations", json={"prompt": "a cat"}).json()
        finish(make)
        assert client.post(f"/api/v1/generations/{made['id']}/cancel").status_code == 409


class TestOwners:
    def test_generations_and_pictures_are_their_owners_alone(
        self, client: TestClient, weights: None, make: Any, as_owner: Headers
    ) -> None:
        made = client.post("/api/v1/generations", json={"prompt": "a cat", "seed": 5}).json()
        finish(make)
        (image,) = client.get(f"/api/v1/generations/{made['id']}").json()["images"]
        other = as_owner("berta")
        assert client.get(f"/api/v1/generations/{made['id']}", headers=other).status_code == 404
        assert client.post(f"/api/v1/generations/{made['id']}/cancel", headers=other).status_code == 404
        assert client.get(image["url"], headers=other).status_code == 404
        assert client.get(image["url"]).content == PICTURE

    def test_another_owners_weights_are_not_found(self, client: TestClient, weights: None, as_owner: Headers) -> None:
        request = {"prompt": "a cat", "weights": [{"weights": "lora"}]}
        assert client.post("/api/v1/generations", json=request, headers=as_owner("berta")).status_code == 404


class TestImages:
    def test_an_image_of_a_dataset_is_found_by_its_identity(self, client: TestClient, make: Any) -> None:
        make.frozen()
        answer = client.get(f"/api/v1/images/{2:064x}")
        assert answer.content == b"dataset image 2"
        assert answer.headers["content-disposition"].startswith("inline")

    def test_an_unknown_hash_is_not_found_and_no_hash_is_refused(self, client: TestClient) -> None:
        assert client.get(f"/api/v1/images/{'f' * 64}").status_code == 404
        assert client.get("/api/v1/images/..%2F..%2Fetc").status_code in {404, 422}
        assert client.get("/api/v1/images/abc").status_code == 422
