"""Registered weights over HTTP: found by name, number and alias, downloaded whole or in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

CONTENTS = [b"first tensors", b"second tensors"]


@pytest.fixture
def two_versions(client: TestClient, make: Any) -> None:
    make.base()
    make.frozen()
    for content in CONTENTS:
        client.post("/api/v1/runs", json={"dataset": "style", "base": "emoji", "recipe": "quick"})
        make.publish(make.begin(), content)


@pytest.mark.usefixtures("two_versions")
class TestRead:
    def test_a_version_says_where_it_comes_from(self, client: TestClient) -> None:
        weights = client.get("/api/v1/weights/lora/latest").json()
        assert (weights["version"], weights["aliases"]) == (2, ["latest", "best"])
        assert weights["base"] == {"name": "emoji", "identity": "a" * 64}
        assert weights["dataset"]["name"] == "style"
        assert client.get(f"/api/v1/runs/{weights['run']}").json()["status"] == "succeeded"
        assert client.get("/api/v1/weights/lora/2").json() == weights

    def test_lists_hold_every_version_newest_first(self, client: TestClient) -> None:
        assert [row["version"] for row in client.get("/api/v1/weights").json()["items"]] == [2, 1]
        assert [row["version"] for row in client.get("/api/v1/weights/lora").json()["versions"]] == [2, 1]
        assert client.get("/api/v1/weights?name=other").json()["items"] == []

    @pytest.mark.parametrize("path", ["none", "none/latest", "lora/3", "lora/mine", "lora/3/file"])
    def test_what_is_not_there_is_not_found(self, client: TestClient, path: str) -> None:
        answer = client.get(f"/api/v1/weights/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    def test_another_owner_finds_nothing(self, client: TestClient, as_owner: Callable[[str], dict[str, str]]) -> None:
        other = as_owner("berta")
        assert client.get("/api/v1/weights", headers=other).json()["items"] == []
        for path in ("lora", "lora/1", "lora/latest", "lora/1/file"):
            assert client.get(f"/api/v1/weights/{path}", headers=other).status_code == 404


@pytest.mark.usefixtures("two_versions")
class TestDownload:
    def test_the_file_has_a_name_of_its_own(self, client: TestClient) -> None:
        answer = client.get("/api/v1/weights/lora/1/file")
        assert answer.content == CONTENTS[0]
        assert answer.headers["content-disposition"] == (
            "attachment; filename=\"lora-v1.safetensors\"; filename*=UTF-8''lora-v1.safetensors"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]

    def test_an_alias_is_asked_again_since_it_moves_on(self, client: TestClient) -> None:
        answer = client.get("/api/v1/weights/lora/latest/file")
        assert answer.content == CONTENTS[1]
        assert answer.headers["cache-control"] == "private, no-cache"
        again = client.get("/api/v1/weights/lora/latest/file", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304

    def test_a_broken_download_goes_on(self, client: TestClient) -> None:
        answer = client.get("/api/v1/weights/lora/1/file", headers={"range": "bytes=6-"})
        assert (answer.status_code, answer.content) == (206, CONTENTS[0][6:])
