"""The API alone as a real process on a home, for the tests that need its sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from patina.client import Client
from tests.databases import new_home

ROOT = Path(__file__).parents[1]


@dataclass
class Server:
    """A uvicorn of our own; it may be killed and started again on the same port."""

    home: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    """Variables of its environment beside those every server here has."""
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait for the line that says it listens."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PATINA_")}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "api.app:from_environment"),
                *("--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"),
            ],
            cwd=ROOT,
            env=kept | {"PATINA_HOME": str(self.home), "PATINA_BROKER_URL": "redis://127.0.0.1:1/0"} | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "running on" in line:
                return
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """kill -9, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def client(self) -> Client:
        return Client(self.url)

    def offset(self, path: str) -> int:
        answer = httpx.head(self.url + path, headers={"Tus-Resumable": "1.0.0"})
        return int(answer.headers["upload-offset"])


@contextmanager
def serving(home: Path, **settings: str) -> Iterator[Server]:
    """A started server, killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(new_home(home), port, settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
