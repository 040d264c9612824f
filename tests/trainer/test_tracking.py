"""W&B: offline unless there is a key, bounded, and never a reason for a run to end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import wandb

from contracts import events
from contracts.events import Event
from contracts.rundir import RunDir
from contracts.train import parse_config
from trainer.report import Report
from trainer.tracking import Tracking

STEP = events.StepDone(at=1, step=1, loss=1, loss_smooth=1, learning_rate=1, grad_norm=1, images_per_s=1)


@pytest.fixture
def said() -> list[Event]:
    return []


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy",
                 "http_proxy", "ALL_PROXY", "all_proxy"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def start(folder: Path, said: list[Event], **changes: Any) -> Tracking:
    return Tracking(parse_config({}, changes), RunDir(folder), Report(said.append), step=0)


class TestTracking:
    def test_without_a_key_writes_offline_and_says_where(self, tmp_path: Path, said: list[Event]) -> None:
        tracking = start(tmp_path, said)
        tracking(STEP)
        tracking.finish(failed=False)
        (event,) = said
        assert isinstance(event, events.Tracking)
        assert event.mode == "offline"
        assert event.where == tracking.where
        assert list(Path(event.where).glob("run-*.wandb"))
        assert Path(event.where).is_relative_to(tmp_path / "wandb")

    def test_with_a_key_but_no_server_stays_offline_and_says_so(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        modes = []
        monkeypatch.setattr(wandb, "init", lambda **named: modes.append(named["mode"]) or FakeRun())
        start(tmp_path, said)
        assert modes == ["offline"]
        assert isinstance(said[0], events.Tracking)
        assert said[0].mode == "degraded"

    def test_bounds_the_time_of_start_and_finish(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {}
        monkeypatch.setattr(wandb, "init", lambda **named: asked.update(named) or FakeRun())
        start(tmp_path, said)
        assert 0 < asked["settings"].init_timeout <= 30
        assert 0 < asked["settings"].finish_timeout <= 30

    def test_what_fails_in_it_does_not_leave_it(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wandb, "init", lambda **named: FakeRun(broken=True))
        tracking = start(tmp_path, said)
        tracking(STEP)
        tracking(STEP)
        tracking.finish(failed=True)
        assert [event.mode for event in said if isinstance(event, events.Tracking)] == ["offline", "degraded"]

    def test_a_start_that_fails_is_said_without_its_words(
        self, tmp_path: Path, said: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(**named: object) -> None:
            raise wandb.errors.CommError("key 12345 refused")

        monkeypatch.setattr(wandb, "init", failing)
        tracking = start(tmp_path, said)
        tracking(STEP)
        assert isinstance(said[0], events.Tracking)
        assert said[0].mode == "degraded"
        assert "12345" not in said[0].where
        assert tracking.where == "off"

    def test_is_off_when_switched_off(self, tmp_path: Path, said: list[Event]) -> None:
        assert start(tmp_path, said, **{"tracking.enabled": False}).where == "off"
        assert not (tmp_path / "wandb").exists()


class FakeRun:
    """Takes W&B's place where only our handling of it is tested."""

    url = "https://example.test/run"
    dir = "/nowhere/run/files"

    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken

    def define_metric(self, name: str, **named: object) -> None:
        assert name == "*"

    def log(self, values: dict[str, object]) -> None:
        if self._broken:
            raise OSError("pipe")

    def finish(self, **named: object) -> None:
        if self._broken:
            raise OSError("pipe")
