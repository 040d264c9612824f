"""The reading of a dataset's files over HTTP: how far it is, its stream, and the end of it on request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.deps import Parts
from catalog.datasets import ingest
from catalog.datasets import service as datasets
from patina.events import messages

INGEST = "/api/v1/datasets/style/ingest"


@pytest.fixture
def offer(client: TestClient, parts: Parts) -> Callable[..., None]:
    client.post("/api/v1/datasets", json={"name": "style"})

    def upload(*names: str) -> None:
        with parts.database.session() as session:
            for name in names:
                key = f"uploads/local/{name}"
                parts.blobs.put_bytes(key, b"x")
                datasets.offer_upload(session, "local", "style", name, key, 1)

    return upload


def events(client: TestClient, last_seen: str | None = None) -> list[tuple[str | None, str, Any]]:
    headers = {"Last-Event-ID": last_seen} if last_seen else {}
    answer = client.get(f"{INGEST}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [(one.id, one.event, json.loads(one.data)) for one in messages(answer.text.splitlines())]


class TestRead:
    def test_says_how_far_it_is(self, client: TestClient, offer: Any, make: Any) -> None:
        assert client.get(INGEST).json()["status"] == "idle"
        offer("a.png", "b.png")
        told = client.get(INGEST).json()
        assert (told["status"], told["found"], told["done"], told["began_at"]) == ("queued", 2, 0, None)
        make.read_uploads()
        told = client.get(INGEST).json()
        assert (told["status"], told["found"], told["done"], told["used"]) == ("done", 2, 2, 2)
        assert told["began_at"] <= told["ended_at"]
        assert told["dataset"] == client.get("/api/v1/datasets/style").json()["id"]


class TestFollow:
    def test_ends_with_the_reading_and_counts_up_to_it(
        self, client: TestClient, parts: Parts, offer: Any, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offer("a.png", "b.txt", "c.txt")
        claim = make.claim("light")
        looked = 0
        real = parts.database.reading

        def worked_on() -> Any:
            """One file is read between two looks into the database."""
            nonlocal looked
            looked += 1
            if looked <= 3:
                with parts.database.session() as session:
                    row = ingest.pending_files(session, claim, 1)[0]
                    ingest.reject(session, claim, row.id, "no")
            elif looked == 4:
                with parts.database.session() as session:
                    ingest.finish(session, claim)
            return real()

        monkeypatch.setattr(type(parts.database), "reading", lambda self: worked_on())
        told = events(client)
        monkeypatch.undo()
        assert [event for _, event, _ in told][-2:] == ["progress", "status"]
        assert told[-1][2]["status"] == "done"
        progress = [(int(number or 0), said) for number, event, said in told if event == "progress"]
        assert [number for number, _ in progress] == sorted({number for number, _ in progress})
        done = [said["done"] for _, said in progress]
        assert done == sorted(done)
        assert (done[0] < 3, done[-1]) == (True, 3)
        assert {said["found"] for _, said in progress} == {3}

    def test_a_client_that_comes_back_hears_nothing_twice(self, client: TestClient, offer: Any, make: Any) -> None:
        offer("a.png")
        make.read_uploads()
        last = events(client)[0][0]
        answer = client.get(f"{INGEST}/events", headers={"Last-Event-ID": str(last)})
        assert answer.status_code == 204
        offer("b.png")
        make.read_uploads()
        ((number, _, said), _) = events(client, last)
        assert int(number or 0) > int(last or 0)
        assert (said["number"], said["found"]) == (2, 1)


class TestCancel:
    def test_rejects_what_was_not_read_and_removes_its_blobs(
        self, client: TestClient, parts: Parts, offer: Any
    ) -> None:
        offer("a.png", "b.png")
        answer = client.post(f"{INGEST}/cancel")
        assert (answer.status_code, answer.json()["status"], answer.json()["rejected"]) == (202, "cancelled", 2)
        rows = client.get("/api/v1/datasets/style/ledger").json()["items"]
        assert {(row["fate"], row["reason"]) for row in rows} == {
            ("rejected", "cancelled by its owner; upload again to add it")
        }
        assert not parts.blobs.exists("uploads/local/a.png")
        assert client.get("/api/v1/datasets/style").json()["status"] == "empty"
        assert client.post(f"{INGEST}/cancel").status_code == 202

    def test_of_what_is_over_is_a_conflict(self, client: TestClient, offer: Any, make: Any) -> None:
        offer("a.png")
        make.read_uploads()
        refused = client.post(f"{INGEST}/cancel")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")

    def test_the_same_file_is_taken_again_afterwards(self, client: TestClient, offer: Any, make: Any) -> None:
        offer()
        sent = {"files": ("a.png", b"not much", "image/png")}
        assert client.post("/api/v1/datasets/style/files", files=sent).status_code == 202
        client.post(f"{INGEST}/cancel")
        assert client.post("/api/v1/datasets/style/files", files=sent).status_code == 202
        make.read_uploads()
        (row,) = client.get("/api/v1/datasets/style/ledger").json()["items"]
        assert row["fate"] == "used"


class TestOwners:
    def test_another_owner_finds_nothing(self, client: TestClient, offer: Any, as_owner: Any) -> None:
        offer("a.png")
        other = as_owner("bob")
        assert client.get(INGEST, headers=other).status_code == 404
        assert client.get(f"{INGEST}/events", headers=other).status_code == 404
        assert client.post(f"{INGEST}/cancel", headers=other).status_code == 404
        assert client.get(INGEST).json()["status"] == "queued"
