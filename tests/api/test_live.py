"""What only a real server shows: a stream while it happens, a client that hangs up, a broker that is away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import redis
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from broker import embedded
from catalog.generations import service as generations
from contracts.events import Started, StepDone

RUN = {"dataset": "style", "base": "emoji", "recipe": "quick"}
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


def step(number: int) -> StepDone:
    return StepDone(at=1, step=number, loss=0.5, loss_smooth=0.5, learning_rate=1e-4, grad_norm=1, images_per_s=9)


@contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    """Serve the application from a thread; the port it listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def eventually(holds: Callable[[], bool], within_s: float = 30) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def base_url(client: TestClient, make: Any) -> Iterator[str]:
    make.base()
    make.frozen()
    with serving(client.app) as port:  # type: ignore[arg-type]
        yield f"http://127.0.0.1:{port}"


@contextmanager
def stream(base_url: str, run: str, last_seen: int | None = None) -> Iterator[Iterator[str]]:
    headers = {} if last_seen is None else {"last-event-id": str(last_seen)}
    address = f"{base_url}/api/v1/runs/{run}/events"
    with httpx.stream("GET", address, headers=headers, timeout=30, trust_env=False) as answer:
        yield answer.iter_lines()


def until(lines: Iterator[str], start: str) -> str:
    """Read on to the next line that begins so."""
    return next(line for line in lines if line.startswith(start))


class TestStream:
    def test_a_run_is_heard_while_it_happens(self, base_url: str, make: Any) -> None:
        run = httpx.post(f"{base_url}/api/v1/runs", json=RUN, trust_env=False).json()["id"]
        with stream(base_url, run) as lines:
            assert '"status":"queued"' in until(lines, "data:")
            assert until(lines, ":").startswith(": ping")  # nothing happens: the connection is kept awake
            claim = make.begin()
            assert '"status":"preparing"' in until(lines, "data:")
            make.tell(claim, STARTED, offset=1)
            assert until(lines, "id:") == "id: 1"
            make.tell(claim, step(1), offset=2)
            assert until(lines, "id:") == "id: 2"
        with stream(base_url, run, last_seen=1) as lines:
            assert until(lines, "id:") == "id: 2"
            make.publish(claim)
            assert [line for line in lines if line.startswith("data:")][-1].count('"status":"succeeded"') == 1

    def test_streams_that_wait_keep_nobody_else_waiting(self, base_url: str) -> None:
        run = httpx.post(f"{base_url}/api/v1/runs", json=RUN, trust_env=False).json()["id"]
        with stream(base_url, run) as one, stream(base_url, run) as two:
            until(one, "data:")
            until(two, "data:")
            assert httpx.get(f"{base_url}/healthz", trust_env=False).json() == {"status": "ok"}


class TestHangUp:
    def test_a_client_that_hangs_up_while_it_waits_cancels_its_generation(self, base_url: str, make: Any) -> None:
        def statuses() -> list[str]:
            with make.parts.database.reading() as session:
                return [row.status for row in generations.list_generations(session, "local").items]

        body = b'{"prompt": "a cat"}'
        host, port = base_url.removeprefix("http://").split(":")
        head = (
            f"POST /api/v1/generations HTTP/1.1\r\nHost: {host}:{port}\r\nPrefer: wait=60\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + body)
            eventually(lambda: statuses() == ["queued"])
        eventually(lambda: statuses() == ["cancelled"])


class TestBroker:
    def test_work_rings_and_readiness_names_what_is_away(self, client: TestClient, make: Any) -> None:
        make.base()
        make.frozen()
        running = embedded.start(make.parts.broker)
        try:
            assert client.get("/readyz").json() == {
                "status": "ready",
                "checks": {"database": "ok", "broker": "ok", "storage": "ok"},
            }
            assert client.post("/api/v1/runs", json=RUN).status_code == 201
            with redis.Redis(unix_socket_path=str(make.parts.broker.socket)) as server:
                assert server.llen("train") == 1
        finally:
            running.stop()
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"database": "ok", "broker": "unavailable", "storage": "ok"}
        assert client.post("/api/v1/runs", json=RUN).status_code == 201
