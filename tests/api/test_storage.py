"""What uses how much, told to its owner alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

Headers = Callable[[str], dict[str, str]]


def used(client: TestClient, headers: dict[str, str] | None = None) -> dict[tuple[str, str | None], int]:
    items = client.get("/api/v1/storage", headers=headers).json()["items"]
    return {(use["what"], use["name"]): use["files"] for use in items if use["files"]}


class TestStorage:
    def test_is_told_by_dataset_and_by_kind_to_its_owner_alone(
        self, client: TestClient, make: Any, as_owner: Headers
    ) -> None:
        make.frozen("style", images=3)
        client.post("/api/v1/datasets/style/files", files=[("files", ("new.png", b"not read yet"))])
        assert used(client) == {("dataset", "style"): 3, ("uploads to be read", None): 1}
        assert used(client, as_owner("eve")) == {}

    def test_says_how_much_room_is_left_and_kept(self, client: TestClient) -> None:
        said = client.get("/api/v1/storage").json()
        assert said["free_bytes"] > 0
        assert said["reserve_bytes"] == 1 << 30
