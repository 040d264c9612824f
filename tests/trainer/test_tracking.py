"""W&B: whole offline and online, resumed without doubles, bounded, secretive, and never a reason for a run to end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

import trainer.tracking
import trainer.wandb_server
from contracts import events
from contracts.events import Event
from contracts.rundir import Completed, RunDir
from contracts.train import parse_config
from tests.trainer.tiny import events_of, losses, make_recipe, outcome_of, train
from tests.trainer.wandb_stub import KEY, WandbStub, artifacts, config, history, runs
from trainer.report import EventFile, Report
from trainer.tracking import Tracking

SECRET = "hf_this_must_not_leave_the_machine"


def step(number: int) -> events.StepDone:
    return events.StepDone(
        at=number, step=number, loss=1 / number, loss_smooth=0.5, learning_rate=1e-4,
        learning_rates={"unet": 1e-4, "text_encoder": 5e-5}, grad_norm=2.0, adapter_norm=3.0, images_per_s=4.0,
    )  # fmt: skip


@pytest.fixture
def said() -> list[Event]:
    return []


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy",
                 "http_proxy", "ALL_PROXY", "all_proxy"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRET)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbStub]:
    with WandbStub() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


def start(folder: Path, said: list[Event], at: int = 0, **changes: Any) -> Tracking:
    facts = {"base_identity": "b" * 64}
    settings = {name.replace("__", "."): value for name, value in changes.items()}
    return Tracking(parse_config({}, settings), RunDir(folder), Report(said.append), step=at, facts=facts)


def modes(said: list[Event]) -> list[str]:
    return [event.mode for event in said if isinstance(event, events.Tracking)]


def offline_files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def picture(folder: Path) -> events.Preview:
    (folder / "previews").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "previews" / "step-00000002-00.png")
    return events.Preview(at=2, step=2, file="step-00000002-00.png", prompt="a red square", seed=0)


class TestOffline:
    def test_the_file_holds_everything_and_no_secret(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_MODE", "offline")
        tracking = start(tmp_path, said, tracking__tags=["a", "b"], tracking__group="g", tracking__entity="me", seed=7)
        for event in (step(1), step(2), events.HeldOut(at=2, step=2, loss=0.25), picture(tmp_path)):
            tracking(event)
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"0" * 100)
        tracking.upload([weights], {"step": 2})
        tracking.finish(failed=False)
        (file,) = offline_files(tmp_path)
        one, two, held_out, preview = history(file)
        assert (one["train/step"], one["train/loss"], two["train/loss"]) == (1, 1.0, 0.5)
        assert two | {
            "train/loss_smooth": 0.5, "train/learning_rate/text_encoder": 5e-5, "train/grad_norm": 2.0,
            "train/adapter_norm": 3.0, "train/images_per_s": 4.0,
        } == two  # fmt: skip
        assert (held_out["train/step"], held_out["held_out/loss"]) == (2, 0.25)
        assert preview["preview/00/caption"] == "a red square"
        assert (Path(tracking.where) / "files" / preview["preview/00/path"]).exists()
        assert (config(file)["seed"], config(file)["base_identity"]) == (7, "b" * 64)
        (run,) = runs(file)
        assert (run.project, run.entity, run.run_group, list(run.tags)) == ("patina", "me", "g", ["a", "b"])
        (artifact,) = artifacts(file)
        assert (artifact.name, artifact.type) == ("weights", "model")
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert KEY.encode() not in written
        assert SECRET.encode() not in written

    def test_without_a_key_says_that_it_is_offline_and_where(self, tmp_path: Path, said: list[Event]) -> None:
        tracking = start(tmp_path, said)
        tracking.finish(failed=False)
        (event,) = said
        assert isinstance(event, events.Tracking)
        assert event.mode == "offline"
        assert "WANDB_API_KEY is not set" in event.where
        assert event.where.endswith(tracking.where)
        assert Path(tracking.where).is_relative_to(tmp_path / "wandb")

    def test_the_folder_of_a_later_attempt_holds_the_whole_run_under_the_same_id(
        self, tmp_path: Path, said: list[Event]
    ) -> None:
        spoken = EventFile(tmp_path / "events.jsonl")
        first = start(tmp_path, said)
        for number in (1, 2, 3):
            spoken(step(number))
            first(step(number))
        spoken(picture(tmp_path))
        first.finish(failed=True)
        # It goes on from step 2: what the first said of step 3 is said again.
        second = start(tmp_path, said, at=2)
        second(step(3))
        second.finish(failed=False)
        old, new = sorted(offline_files(tmp_path), key=lambda file: file.stat().st_mtime)
        assert [row["train/step"] for row in history(old)] == [1, 2, 3]
        assert [row["train/step"] for row in history(new)] == [1, 2, 2, 3]
        assert {run.run_id for file in (old, new) for run in runs(file)} == {
            (tmp_path / "wandb" / "run-id").read_text()
        }


class TestOnline:
    def test_the_server_gets_values_pictures_weights_and_no_secret(
        self, tmp_path: Path, said: list[Event], stub: WandbStub
    ) -> None:
        tracking = start(tmp_path, said, tracking__tags=["a"], tracking__group="g", seed=7)
        for event in (step(1), step(2), picture(tmp_path)):
            tracking(event)
        weights = tmp_path / "tiny.safetensors"
        weights.write_bytes(b"0" * 100)
        tracking.upload([weights], {"step": 2})
        tracking.finish(failed=False)
        assert modes(said) == ["online"]
        ((run_id, rows),) = stub.history.items()
        assert run_id in tracking.where
        assert [row["train/step"] for row in rows] == [1, 2, 2]
        assert rows[2]["preview/00"]["caption"] == "a red square"
        assert any("media/images" in path for path in stub.uploaded)
        assert [one["input"]["artifactCollectionName"] for one in stub.artifacts] == ["tiny"]
        assert any("tiny.safetensors" in path for path in stub.uploaded)
        assert [one["artifactID"] for one in stub.committed] == ["a"]
        (upsert, *_) = (one for one in stub.variables if one.get("groupName"))
        assert (upsert["groupName"], upsert["tags"]) == ("g", ["a"])
        assert SECRET not in str(stub.variables) + str(stub.history)
        assert KEY not in str(stub.variables) + str(stub.history)

    def test_a_later_attempt_goes_on_in_the_same_run_and_tells_nothing_twice(
        self, tmp_path: Path, said: list[Event], stub: WandbStub
    ) -> None:
        spoken = EventFile(tmp_path / "events.jsonl")
        first = start(tmp_path, said)
        for number in (1, 2, 3):
            spoken(step(number))
            first(step(number))
        first.finish(failed=True)
        second = start(tmp_path, said, at=2)
        for number in (3, 4):
            second(step(number))
        second.finish(failed=False)
        (rows,) = stub.history.values()
        assert [row["train/step"] for row in rows] == [1, 2, 3, 4]

    def test_what_an_offline_attempt_said_is_told_first(
        self, tmp_path: Path, said: list[Event], stub: WandbStub
    ) -> None:
        spoken = EventFile(tmp_path / "events.jsonl")
        for number in (1, 2, 3):
            spoken(step(number))
        tracking = start(tmp_path, said, at=2)
        tracking(step(3))
        tracking.finish(failed=False)
        (rows,) = stub.history.values()
        assert [row["train/step"] for row in rows] == [1, 2, 3]

    @pytest.mark.slow
    def test_a_server_that_dies_is_waited_for_no_longer_than_said(
        self, tmp_path: Path, said: list[Event], stub: WandbStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer.tracking, "FINISH_S", 2.0)
        tracking = start(tmp_path, said)
        stub.hangs = True
        for number in range(1, 50):
            tracking(step(number))
        tracking.finish(failed=False)
        assert modes(said) == ["online", "degraded"]
        assert isinstance(said[-1], events.Tracking)
        assert "wandb sync" in said[-1].where
        (file,) = (tmp_path / "wandb").glob("run-*/run-*.wandb")
        assert [row["train/step"] for row in history(file)] == list(range(1, 50))


class TestWithoutAServer:
    @pytest.mark.parametrize("how", ["nobody listens", "nobody answers", "another server", "another key"])
    def test_stays_offline_and_says_why(
        self, how: str, tmp_path: Path, said: list[Event], stub: WandbStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer.wandb_server, "ANSWER_S", 0.5)
        asked = []
        monkeypatch.setattr(wandb, "init", lambda **named: asked.append(named["mode"]) or FakeRun())
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            if how == "nobody listens":
                monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
            elif how == "another server":
                monkeypatch.setattr(stub, "answer", lambda body: {})
            elif how == "another key":
                monkeypatch.setenv("WANDB_API_KEY", "z" * 40)
            stub.hangs = how == "nobody answers"
            start(tmp_path, said)
        assert asked == ["offline"]
        (event,) = said
        assert isinstance(event, events.Tracking)
        assert event.mode == "degraded"
        reason = "does not know the key" if how in ("another key", "another server") else "does not answer"
        assert event.where.startswith(f"the W&B server {reason}, so the run is kept offline; writing to ")


class TestFailing:
    def test_bounds_the_time_of_start_and_finish(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {}
        monkeypatch.setattr(wandb, "init", lambda **named: asked.update(named) or FakeRun())
        start(tmp_path, said)
        assert 0 < asked["settings"].init_timeout <= 30
        assert 0 < asked["settings"].finish_timeout <= 30

    def test_what_fails_in_it_does_not_leave_it_and_it_is_still_closed(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = FakeRun(broken=True)
        monkeypatch.setattr(wandb, "init", lambda **named: run)
        tracking = start(tmp_path, said)
        tracking(step(1))
        tracking(step(2))
        tracking.finish(failed=True)
        assert run.asked == ["log", "finish"]
        assert modes(said) == ["offline", "degraded", "degraded"]

    def test_an_event_of_an_earlier_attempt_that_cannot_be_read_ends_nothing(
        self, tmp_path: Path, said: list[Event]
    ) -> None:
        RunDir(tmp_path).events.write_text('{"type":"step","step":1,"of":"another version"}\n')
        tracking = start(tmp_path, said, at=1)
        assert modes(said) == ["offline", "degraded"]
        tracking(step(2))
        tracking.finish(failed=False)
        (file,) = offline_files(tmp_path)
        assert [row["train/step"] for row in history(file)] == [2]

    def test_a_start_that_fails_is_said_without_its_words(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(**named: object) -> None:
            raise wandb.errors.CommError("key 12345 refused")

        monkeypatch.setattr(wandb, "init", failing)
        tracking = start(tmp_path, said)
        tracking(step(1))
        assert modes(said) == ["degraded"]
        assert "12345" not in str(said)
        assert tracking.where == "off"

    def test_is_off_when_switched_off(self, tmp_path: Path, said: list[Event]) -> None:
        assert start(tmp_path, said, tracking__enabled=False).where == "off"
        assert not (tmp_path / "wandb").exists()


class TestARun:
    @pytest.mark.slow
    def test_whose_server_dies_in_the_middle_ends_as_if_nothing_was(
        self,
        finished: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        stub: WandbStub,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(trainer.tracking, "FINISH_S", 2.0)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, tracking={"enabled": True, "log_weights": True})
        write = EventFile.__call__

        def dying(self: EventFile, event: Event) -> None:
            write(self, event)
            stub.hangs = stub.hangs or (isinstance(event, events.StepDone) and event.step == 3)

        monkeypatch.setattr(EventFile, "__call__", dying)
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        assert isinstance(outcome_of(tmp_path / "run"), Completed)
        assert losses(tmp_path / "run") == losses(finished)
        assert modes(events_of(tmp_path / "run"))[0] == "online"
        assert modes(events_of(tmp_path / "run"))[-1] == "degraded"
        assert not [thread for thread in threading.enumerate() if "wandb" in thread.name and not thread.daemon]


class FakeRun:
    """Takes W&B's place where only our handling of it is tested."""

    url = "https://example.test/run"
    dir = "/nowhere/run/files"
    resumed = False

    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken
        self.asked: list[str] = []

    def define_metric(self, name: str, **named: object) -> None:
        assert named["step_metric"] == "train/step"

    def log(self, values: dict[str, object]) -> None:
        self._act("log")

    def finish(self, **named: object) -> None:
        self._act("finish")

    def _act(self, name: str) -> None:
        self.asked.append(name)
        if self._broken:
            raise OSError("pipe")
