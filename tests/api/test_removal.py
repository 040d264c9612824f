"""Removing over HTTP: what came of something is told, and what was chosen is done; nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Headers = Callable[[str], dict[str, str]]
ANY = {"if-match": "*"}
DATASET = "/api/v1/datasets/style"
IMAGE = f"{DATASET}/images/{0:064x}"


@pytest.fixture
def run(client: TestClient, make: Any) -> str:
    """A run on the dataset `style` that has published `lora`."""
    make.base()
    make.frozen()
    identifier: str = client.post("/api/v1/runs", json={"dataset": "style", "base": "emoji", "recipe": "quick"}).json()[
        "id"
    ]
    make.publish(make.begin())
    return identifier


class TestDataset:
    def test_the_refusal_lists_versions_runs_and_weights_and_what_can_be_chosen(
        self, client: TestClient, run: str
    ) -> None:
        refused = client.delete(DATASET)
        assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
        problem = refused.json()
        assert problem["code"] == "has_offspring"
        assert [(one["dataset"], one["version"]) for one in problem["offspring"]["versions"]] == [("style", 1)]
        assert [(one["id"], one["status"]) for one in problem["offspring"]["runs"]] == [(run, "succeeded")]
        assert problem["offspring"]["weights"] == [{"name": "lora", "version": 1}]
        assert set(problem["choices"]) == {"keep=history", "remove=versions,runs,weights"}
        looked = client.delete(f"{DATASET}?dry_run=true")
        assert (looked.status_code, looked.json()) == (
            200,
            {"offspring": problem["offspring"], "choices": problem["choices"]},
        )

    def test_each_choice_does_what_it_says(self, client: TestClient, run: str, make: Any) -> None:
        assert client.delete(f"{DATASET}?keep=history").status_code == 204
        assert client.get(DATASET).status_code == 404
        kept = client.get(f"/api/v1/runs/{run}").json()["datasets"][0]
        assert client.get("/api/v1/weights/lora/1").status_code == 200
        # Kept for its run and weights, it can still be removed with them, by its id.
        assert client.delete(f"/api/v1/datasets/{kept['id']}?remove=weights,versions,runs").status_code == 204
        assert client.get(f"/api/v1/runs/{run}").status_code == 404
        assert client.get("/api/v1/weights").json()["items"] == []

    @pytest.mark.parametrize("query", ["keep=all", "remove=runs", "remove=everything", "keep=history&remove=runs"])
    def test_what_cannot_be_chosen_is_refused_and_nothing_happens(
        self, client: TestClient, run: str, query: str
    ) -> None:
        assert client.delete(f"{DATASET}?{query}").status_code == 422
        assert client.get(DATASET).status_code == 200

    def test_an_active_run_is_not_pulled_the_rug_from_under(self, client: TestClient, run: str) -> None:
        request = {"dataset": "style", "base": "emoji", "recipe": "quick"}
        waiting = client.post("/api/v1/runs", json=request).json()["id"]
        for address in (DATASET, IMAGE):
            refused = client.delete(f"{address}?remove=versions,runs,weights", headers=ANY)
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
            assert waiting in refused.json()["detail"]
        assert client.delete(f"/api/v1/runs/{waiting}").json()["code"] == "conflict"


class TestImage:
    def test_goes_everywhere_and_is_found_nowhere(self, client: TestClient, run: str) -> None:
        picture = f"/api/v1/images/{0:064x}"
        assert client.get(picture).status_code == 200
        assert client.delete(IMAGE, headers=ANY).json()["code"] == "has_offspring"
        assert client.delete(f"{IMAGE}?remove=versions", headers=ANY).status_code == 204
        assert client.get(picture).status_code == 404
        (version,) = client.get(f"{DATASET}/versions").json()["items"]
        assert version["withdrawn"] is True
        for address in ("parquet", "imagefolder.zip"):
            assert client.get(f"{DATASET}/versions/1/{address}").json()["code"] == "conflict"
        assert client.get("/api/v1/weights/lora/1").json()["datasets"][0]["digest"] == version["digest"]

    def test_says_what_it_is_based_on(self, client: TestClient, run: str) -> None:
        assert client.delete(IMAGE).status_code == 428
        assert client.delete(f"{IMAGE}?keep=history", headers={"if-match": '"r99"'}).status_code == 412
        assert client.delete(f"{IMAGE}?keep=history", headers=ANY).status_code == 204
        assert client.get(f"{DATASET}/images?removed=true").json()["items"][0]["name"] == "0.png"


class TestVersion:
    def test_is_withdrawn(self, client: TestClient, run: str) -> None:
        address = f"{DATASET}/versions/1"
        assert set(client.delete(address).json()["choices"]) == {"keep=history", "remove=runs,weights"}
        assert client.delete(f"{address}?keep=history").status_code == 204
        refused = client.post(
            "/api/v1/runs", json={"dataset": "style", "version": 1, "base": "emoji", "recipe": "quick"}
        )
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


class TestRunAndWeights:
    def test_a_run_goes_with_or_without_its_weights(self, client: TestClient, run: str) -> None:
        address = f"/api/v1/runs/{run}"
        assert set(client.delete(address).json()["choices"]) == {"keep=history", "remove=weights"}
        assert client.delete(f"{address}?keep=history").status_code == 204
        assert client.get(address).status_code == 404
        assert client.get("/api/v1/weights/lora/1").json()["run"] is None

    def test_weights_go_with_what_is_served_of_them(self, client: TestClient, run: str) -> None:
        assert client.delete("/api/v1/weights/lora/latest").status_code == 204
        for address in ("/lora", "/lora/1", "/lora/1/file"):
            assert client.get(f"/api/v1/weights{address}").status_code == 404
        asked = {"prompt": "x", "base": "emoji", "weights": [{"weights": "lora@1"}]}
        assert client.post("/api/v1/generations", json=asked).status_code == 404


def test_another_owner_removes_and_learns_nothing(client: TestClient, run: str, as_owner: Headers) -> None:
    other = as_owner("berta") | ANY
    addresses = (DATASET, IMAGE, f"{DATASET}/versions/1", f"/api/v1/runs/{run}", "/api/v1/weights/lora/1")
    for address in addresses:
        for query in ("", "?dry_run=true", "?keep=history"):
            assert client.delete(f"{address}{query}", headers=other).status_code == 404
    assert client.get(DATASET).json()["images"] == 4
