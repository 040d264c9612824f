"""Runs over HTTP: planned, created, followed and cancelled; nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from catalog.runs import progress
from contracts.events import HeldOut, Preview, Started, StepDone

Headers = Callable[[str], dict[str, str]]

REQUEST = {"dataset": "style", "base": "emoji", "recipe": "quick"}
STARTED = Started(
    at=1,
    steps=20,
    first_step=0,
    images=3,
    held_out_images=1,
    trainable_parameters=9,
    processes=1,
    device="cpu",
    exact=True,
)


def step(number: int, loss: float = 0.5) -> StepDone:
    return StepDone(
        at=number, step=number, loss=loss, loss_smooth=loss, learning_rate=1e-4, grad_norm=1, images_per_s=9
    )


@pytest.fixture
def ready(make: Any) -> None:
    make.base()
    make.frozen()


@pytest.fixture
def run(client: TestClient, ready: None) -> str:
    identifier: str = client.post("/api/v1/runs", json=REQUEST).json()["id"]
    return identifier


def read_stream(client: TestClient, run: str, last_seen: str | None = None) -> list[dict[str, str]]:
    headers = {} if last_seen is None else {"last-event-id": last_seen}
    answer = client.get(f"/api/v1/runs/{run}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.replace("\r\n", "\n").strip().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")) for block in blocks]


class TestPlan:
    def test_a_dry_run_answers_the_plan_and_creates_nothing(self, client: TestClient, ready: None) -> None:
        answer = client.post("/api/v1/runs?dry_run=true", json=REQUEST | {"overrides": {"lora.rank": 8}})
        assert answer.status_code == 200
        assert answer.json()["steps"] == 20
        assert answer.json()["trainable_parameters"] == 8 * 800
        assert client.get("/api/v1/runs").json()["items"] == []

    def test_memory_to_fit_is_answered_with_what_makes_the_run_fit(self, client: TestClient, ready: None) -> None:
        plan = client.post("/api/v1/runs?dry_run=true", json=REQUEST).json()
        assert plan["fitting"] is None
        limit = f"{plan['memory_total'] / 2**20 + 1024 - 1}MiB"
        asked = client.post("/api/v1/runs", params={"dry_run": True, "memory": limit}, json=REQUEST).json()
        assert asked["fitting"]["fits"]
        changes = {key: value for one in asked["fitting"]["changes"] for key, value in one["overrides"].items()}
        assert all(one["memory_total"] < plan["memory_total"] for one in asked["fitting"]["changes"])
        assert client.post("/api/v1/runs", params={"memory": limit}, json=REQUEST).status_code == 507
        assert client.get("/api/v1/runs").json()["items"] == []
        made = client.post("/api/v1/runs", params={"memory": limit}, json=REQUEST | {"overrides": changes})
        assert made.status_code == 201
        wrong = client.post("/api/v1/runs", params={"dry_run": True, "memory": "much"}, json=REQUEST)
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_input")


class TestCreate:
    def test_a_run_is_queued_with_everything_resolved(self, client: TestClient, ready: None) -> None:
        answer = client.post("/api/v1/runs", json=REQUEST | {"overrides": {"lora.rank": 8}})
        assert answer.status_code == 201
        made = answer.json()
        assert answer.headers["location"] == f"/api/v1/runs/{made['id']}"
        assert (made["status"], made["config"]["lora"]["rank"], made["steps"]) == ("queued", 8, 20)
        assert made["base"]["identity"] == "a" * 64
        assert "patina up" in made["explanation"]
        assert client.get(f"/api/v1/runs/{made['id']}").json() == made

    def test_several_versions_feed_one_run(self, client: TestClient, ready: None, make: Any) -> None:
        make.frozen(name="more", images=5)
        several = {"base": "emoji", "recipe": "quick", "datasets": [{"dataset": "style"}, {"dataset": "more"}]}
        several["datasets"][1]["weight"] = 0.5  # type: ignore[index]
        made = client.post("/api/v1/runs", json=several).json()
        assert [(one["name"], one["version"], one["weight"]) for one in made["datasets"]] == [
            ("style", 1, 1.0), ("more", 1, 0.5),
        ]  # fmt: skip
        make.publish(make.begin())
        (weights,) = client.get("/api/v1/weights").json()["items"]
        assert (weights["datasets"], weights["dataset"]["digest"]) == (made["datasets"], made["dataset_digest"])

    @pytest.mark.parametrize(
        "changed", [{"datasets": [{"dataset": "style"}]}, {"dataset": None}, {"dataset": None, "datasets": []}]
    )
    def test_its_data_is_said_once(self, client: TestClient, ready: None, changed: dict[str, Any]) -> None:
        assert client.post("/api/v1/runs", json=REQUEST | changed).status_code == 422

    @pytest.mark.parametrize("changed", [{"dataset": "a\0b"}, {"dataset": None, "datasets": [{"dataset": "a\0b"}]}])
    def test_a_name_no_database_could_look_for_is_refused_before_any_does(
        self, client: TestClient, ready: None, changed: dict[str, Any]
    ) -> None:
        answer = client.post("/api/v1/runs", json=REQUEST | changed)
        assert (answer.status_code, answer.json()["errors"][0]["message"]) == (422, "holds a NUL character")

    def test_everything_wrong_is_told_at_once(self, client: TestClient) -> None:
        request = {"dataset": "none", "base": "none", "recipe": "quick", "overrides": {"lora.rang": 8, "steps": 0}}
        answer = client.post("/api/v1/runs", json=request)
        assert answer.status_code == 422
        pointers = {error["pointer"] for error in answer.json()["errors"]}
        assert pointers == {"/dataset", "/base", "/overrides/lora.rang", "/overrides/steps"}

    @pytest.mark.parametrize(
        ("changed", "status", "code"),
        [
            ({"recipe": "none"}, 422, "unknown_recipe"),
            ({"recipe": "../../etc/passwd"}, 422, "unknown_recipe"),
            ({"base": "none"}, 422, "unknown_base"),
            ({"dataset": "none"}, 404, "not_found"),
            ({"version": 9}, 404, "not_found"),
        ],
    )
    def test_what_is_not_there_is_named(
        self, client: TestClient, ready: None, changed: dict[str, Any], status: int, code: str
    ) -> None:
        answer = client.post("/api/v1/runs", json=REQUEST | changed)
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    @pytest.mark.parametrize(
        "changed", [{"base": "/etc/passwd"}, {"base": "https://evil.example/x"}, {"base_dir": "/"}]
    )
    def test_no_field_takes_a_path(self, client: TestClient, ready: None, changed: dict[str, str]) -> None:
        assert client.post("/api/v1/runs", json=REQUEST | changed).status_code == 422


class TestOwners:
    def test_another_owner_sees_and_stops_nothing(self, client: TestClient, run: str, as_owner: Headers) -> None:
        other = as_owner("berta")
        assert client.get("/api/v1/runs", headers=other).json()["items"] == []
        for part in ("", "/events", "/metrics", "/previews", "/log"):
            assert client.get(f"/api/v1/runs/{run}{part}", headers=other).status_code == 404
        for what in ("cancel", "resume"):
            assert client.post(f"/api/v1/runs/{run}/{what}", headers=other).status_code == 404
        assert client.get(f"/api/v1/runs/{run}").json()["status"] == "queued"

    def test_another_owners_dataset_cannot_be_trained_on(
        self, client: TestClient, ready: None, as_owner: Headers
    ) -> None:
        answer = client.post("/api/v1/runs", json=REQUEST, headers=as_owner("berta"))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


class TestCancel:
    def test_a_queued_run_is_cancelled_at_once_and_twice_is_once(self, client: TestClient, run: str) -> None:
        for _ in range(2):
            answer = client.post(f"/api/v1/runs/{run}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")

    def test_a_run_that_ended_cannot_be_cancelled(self, client: TestClient, run: str, make: Any) -> None:
        make.publish(make.begin())
        answer = client.post(f"/api/v1/runs/{run}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


class TestResume:
    def test_a_run_that_was_cancelled_is_queued_again_and_one_that_waits_is_not(
        self, client: TestClient, run: str
    ) -> None:
        assert client.post(f"/api/v1/runs/{run}/resume").json()["code"] == "conflict"
        client.post(f"/api/v1/runs/{run}/cancel")
        answer = client.post(f"/api/v1/runs/{run}/resume")
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")


class TestAsking:
    @pytest.mark.parametrize("what", ["save", "preview"])
    def test_a_run_that_trains_is_asked_and_its_worker_hears_it_once(
        self, what: str, client: TestClient, run: str, make: Any
    ) -> None:
        claim = make.begin()
        make.tell(claim, STARTED, offset=1)
        for _ in range(2):
            assert client.post(f"/api/v1/runs/{run}/{what}").status_code == 202
        with make.parts.database.session() as session:
            wanted = progress.asked(session, run)
            progress.passed_on(session, claim, wanted)
            assert wanted == (what,)
            assert progress.asked(session, run) == ()

    @pytest.mark.parametrize("what", ["save", "preview"])
    def test_a_run_that_does_not_train_says_so(self, what: str, client: TestClient, run: str) -> None:
        answer = client.post(f"/api/v1/runs/{run}/{what}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "queued, not training" in answer.json()["detail"]


class TestEvents:
    @pytest.fixture
    def ended(self, run: str, make: Any) -> str:
        claim = make.begin()
        make.tell(claim, STARTED, step(1), step(2), offset=10)
        make.publish(claim)
        return run

    def test_an_ended_run_is_told_whole(self, client: TestClient, ended: str) -> None:
        told = read_stream(client, ended)
        assert [(one["event"], one.get("id")) for one in told] == [
            ("started", "1"),
            ("step", "2"),
            ("step", "3"),
            ("status", None),
        ]
        assert '"status":"succeeded"' in told[-1]["data"]

    def test_a_client_that_comes_back_goes_on_where_it_stopped(self, client: TestClient, ended: str) -> None:
        assert [one.get("id") for one in read_stream(client, ended, last_seen="2")] == ["3", None]

    def test_a_client_that_has_everything_is_told_to_stop(self, client: TestClient, ended: str) -> None:
        answer = client.get(f"/api/v1/runs/{ended}/events", headers={"last-event-id": "3"})
        assert (answer.status_code, answer.content) == (204, b"")

    def test_a_number_nobody_gave_out_is_refused(self, client: TestClient, ended: str) -> None:
        answer = client.get(f"/api/v1/runs/{ended}/events", headers={"last-event-id": "abc"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/header/Last-Event-ID")


class TestWatching:
    def test_curves_previews_and_log(self, client: TestClient, run: str, make: Any) -> None:
        assert client.get(f"/api/v1/runs/{run}/log").status_code == 404
        claim = make.begin()
        make.tell(claim, STARTED, step(1, 0.5), HeldOut(at=1, step=1, loss=0.4), step(1, 0.3), offset=10)
        picture, sha256 = make.blob("previews", "p1", content=b"a preview")
        log, _ = make.blob("logs", "l1", content=b"first line\nlast line\n")
        said = Preview(at=2, step=1, file="0.png", prompt="a cat", seed=7)
        with make.parts.database.session() as session:
            progress.record_preview(session, claim, said, progress.StoredFile(picture, sha256, 9))
            progress.record_log(session, claim, log)
        metrics = client.get(f"/api/v1/runs/{run}/metrics").json()
        assert [(point["step"], point["loss"]) for point in metrics["steps"]] == [(1, 0.3)]
        assert [(point["step"], point["loss"]) for point in metrics["held_out"]] == [(1, 0.4)]
        (preview,) = client.get(f"/api/v1/runs/{run}/previews").json()["items"]
        assert (preview["prompt"], preview["seed"]) == ("a cat", 7)
        assert client.get(preview["url"]).content == b"a preview"
        assert client.get(f"/api/v1/runs/{run}/log").text == "first line\nlast line\n"
        assert client.get(f"/api/v1/runs/{run}/log?tail_bytes=10").text == "last line\n"
        read = client.get(f"/api/v1/runs/{run}").json()
        assert (read["status"], read["step"], read["device"]) == ("training", 1, "cpu")

    def test_a_failed_run_says_why_and_what_to_do(self, client: TestClient, run: str, make: Any) -> None:
        claim = make.begin()
        with make.parts.database.session() as session:
            outcome = progress.Failed(
                step=3, code="nan_loss", message="Loss is NaN.", hint="Lower it.", retryable=False, reference="r1"
            )
            progress.fail(session, claim, outcome)
        read = client.get(f"/api/v1/runs/{run}").json()
        assert read["status"] == "failed"
        assert read["failure"] == {
            "code": "nan_loss",
            "message": "Loss is NaN.",
            "hint": "Lower it.",
            "reference": "r1",
        }


class TestList:
    def test_pages_follow_each_other_newest_first(self, client: TestClient, ready: None) -> None:
        made = [client.post("/api/v1/runs", json=REQUEST).json()["id"] for _ in range(3)]
        first = client.get("/api/v1/runs?limit=2").json()
        second = client.get("/api/v1/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
        assert [run["id"] for run in first["items"] + second["items"]] == made[::-1]
        assert second["next_cursor"] is None

    def test_one_status_can_be_picked(self, client: TestClient, run: str) -> None:
        assert len(client.get("/api/v1/runs?status=queued").json()["items"]) == 1
        assert client.get("/api/v1/runs?status=failed").json()["items"] == []
        assert client.get("/api/v1/runs?status=lost").status_code == 422
