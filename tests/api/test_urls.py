"""Lists of addresses over HTTP: all of a list or, with every reason, none of it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from catalog.datasets.models import DatasetFile

HERE = "/api/v1/datasets/style"
CAT, DOG = "https://example.com/cat.png?size=1", "http://example.com:8080/dog"


@pytest.fixture
def style(client: TestClient) -> TestClient:
    client.post("/api/v1/datasets", json={"name": "style"})
    return client


def offer(client: TestClient, *urls: Any, **options: Any) -> Any:
    listed = [{"url": one} if isinstance(one, str) else one for one in urls]
    return client.post(f"{HERE}/urls", json={"urls": listed}, **options)


def rows(client: TestClient) -> dict[str, Any]:
    return {row["name"]: row for row in client.get(f"{HERE}/ledger").json()["items"]}


class TestLists:
    def test_become_rows_that_wait_for_a_worker(self, style: TestClient) -> None:
        answer = offer(style, {"url": CAT, "caption": "a cat"}, DOG, DOG)
        assert answer.status_code == 202
        told = answer.json()
        assert (told["new"], told["again"], told["known"]) == (2, 0, 1)
        found = rows(style)
        assert (found[CAT]["fate"], found[CAT]["kind"], found[DOG]["fate"]) == ("pending", "url", "pending")
        assert found[f"{CAT}:caption"]["inside"] == found[CAT]["id"]
        dataset = style.get(HERE).json()
        assert (dataset["id"], dataset["status"], dataset["pending_files"]) == (told["dataset"], "ingesting", 2)
        assert style.post(f"{HERE}/versions").json()["code"] == "unfinished_ingest"

    def test_are_refused_with_every_reason_at_once(self, style: TestClient) -> None:
        wrong: dict[Any, str] = {
            "ftp://example.com/a": "begins with https",
            "example.com/a.png": "begins with https",
            "https:///a.png": "complete",
            "https://example.com:0/a": "complete",
            "https://example.com:x/a": "complete",
            "http://[::1/a": "complete",
            "https://me:secret@example.com/a": "credentials",
            "https://me@example.com/a": "credentials",
            "https://example.com/a b": "spaces",
            "https://example.com/a\n": "spaces",
            "https://example.com/\u202e": "spaces",
            "https://example.com/" + "a" * 2000: "longer than 2000",
            "": "begins with https",
        }
        answer = offer(style, CAT, *wrong, {"url": DOG, "caption": "x" * 10_001}, {"link": DOG})
        assert answer.status_code == 422
        told = {error["pointer"]: error["message"] for error in answer.json()["errors"]}
        for place, words in enumerate(wrong.values(), 1):
            assert words in told.pop(f"/urls/{place}/url"), list(wrong)[place - 1]
        after = len(wrong) + 1
        assert set(told) == {f"/urls/{after}/caption", f"/urls/{after + 1}/url", f"/urls/{after + 1}/link"}
        assert rows(style) == {}

    def test_have_a_limit_as_datasets_have(self, settings: ApiSettings) -> None:
        small = settings.model_copy(update={"max_urls": 3, "max_dataset_images": 4})
        with TestClient(create_app(small), base_url="http://localhost:8470", client=("127.0.0.1", 1)) as client:
            client.post("/api/v1/datasets", json={"name": "style"})
            many = [f"https://example.com/{n}" for n in range(5)]
            answer = offer(client, *many[:4])
            assert answer.status_code == 422
            assert "PATINA_MAX_URLS" in answer.json()["hint"]
            assert offer(client).status_code == 422
            assert offer(client, *many[:3]).status_code == 202
            answer = offer(client, *many[3:])
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
            assert len(rows(client)) == 3
            assert offer(client, many[0], many[3]).status_code == 202

    def test_are_their_owners(self, style: TestClient, as_owner: Any, parts: Any) -> None:
        assert offer(style, CAT, headers=as_owner("eve")).status_code == 404
        with parts.database.reading() as session:
            assert session.query(DatasetFile).count() == 0
