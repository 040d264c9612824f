"""`patina up` with real processes: broker, API and workers on a home of their own."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from patina import home, output, supervise
from patina.children import Child, launcher, start
from tests.machine import Machine, eventually
from tests.worker.origins import ok, origin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")


class _Pipe(io.TextIOBase):
    """Text into a pipe at once, as a terminal takes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, text: str) -> int:
        return os.write(self.descriptor, text.encode())


EVERYONE = ("valkey-server", "api.app", "worker.light", "worker.train", "worker.generate")


class TestUp:
    @pytest.mark.slow
    def test_it_starts_everything_keeps_it_there_outlives_kill_9_and_leaves_nothing(self, machine: Machine) -> None:
        said = machine.up()
        assert httpx.get(said["url"] + "/readyz").json()["status"] == "ready"
        assert said["home"] == str(machine.home)
        first = {name: machine.process_of(name) for name in EVERYONE}
        assert None not in first.values()

        code, problem = machine.run("up")
        assert (code, problem["code"]) == (1, "already_running")
        assert str(said["pid"]) in problem["detail"]
        assert said["url"] in problem["detail"]

        for name in ("worker.light", "valkey-server"):
            killed = first[name]
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            assert eventually(lambda name=name, old=killed: machine.process_of(name) not in (None, old))
        assert eventually(lambda: httpx.get(said["url"] + "/readyz").is_success)

        # After kill -9 of the supervisor a new start works.
        machine.end(signal.SIGKILL)
        machine.up()
        assert {name: machine.process_of(name) is not None for name in EVERYONE} == dict.fromkeys(EVERYONE, True)
        code, ready = machine.run("doctor")
        assert (code, ready["healthy"]) == (0, True)

        assert machine.end(signal.SIGTERM) == 0
        assert machine.processes() == []
        assert home.holder(machine.home) is None

    def test_listening_beyond_loopback_without_a_key_is_refused_before_anything_starts(self, machine: Machine) -> None:
        code, problem = machine.run("up", "--host", "0.0.0.0")
        assert (code, problem["code"]) == (1, "unauthenticated")
        assert "patina keys create NAME" in problem["hint"]
        assert machine.processes() == []

    @pytest.mark.parametrize(
        "variable", ["PATINA_MAX_STORE_PX", pytest.param("PATINA_MAX_WAIT_S", marks=pytest.mark.slow)]
    )
    def test_a_setting_of_a_worker_or_the_server_that_cannot_be_is_refused_before_anything_starts(
        self, machine: Machine, variable: str
    ) -> None:
        machine.settings[variable] = "many"
        code, problem = machine.run("up")
        assert (code, problem["code"]) == (1, "invalid_input")
        assert [error["pointer"] for error in problem["errors"]] == [f"/{variable}"]
        assert machine.processes() == []


class TestReady:
    def test_our_own_server_is_asked_without_the_proxy_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with origin() as server:
            url = server.gives("/readyz", ok(b"{}")).removesuffix("/readyz")
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
            assert supervise._ready(url)


class TestTerminal:
    def test_one_that_is_gone_does_not_keep_the_processes_from_being_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read, write = os.pipe()
        os.close(read)
        monkeypatch.setattr(output, "notes", Console(file=_Pipe(write)))
        child = Child(
            "api", launcher([sys.executable, "-c", "input()"], os.environ, Path(os.devnull)), Path(os.devnull)
        )
        start(child, 0.0)
        process = child.process
        assert process is not None
        supervise._stop_all([[], [child], []], threading.Event())
        assert process.returncode is not None
        os.close(write)


class TestRefusals:
    def test_a_port_in_use_is_refused_and_nothing_is_left(self, machine: Machine) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            code, problem = machine.run("up", "--port", str(server.getsockname()[1]))
        assert (code, problem["code"]) == (1, "port_in_use")
        assert machine.processes() == []

    def test_a_home_that_cannot_be_written_is_refused(self, machine: Machine, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        code, problem = machine.run("up", "--home", str(tmp_path / "file"))
        assert (code, problem["code"]) == (1, "home_unusable")
