"""A tus client that is not ours against a real server: killed, cut off and resumed."""

from __future__ import annotations

import hashlib
import http.client
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tusclient.client import TusClient

from api.tus import BODY_TYPE
from catalog.blobs import BlobStore
from catalog.datasets import service as datasets
from catalog.db import Database
from tests.serving import Server, serving

CHUNK = 300_000
CONTENT = random.Random(1).randbytes(1_000_000)
PATIENCE_S = 30.0

KILLED_BY_ITSELF = """
import os, signal, sys
from tusclient.client import TusClient

class File:
    def __init__(self, path, dies_at):
        self.file, self.dies_at = open(path, "rb"), dies_at
    def read(self, count=-1):
        if self.file.tell() >= self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.read(count)
    def seek(self, *where):
        return self.file.seek(*where)
    def tell(self):
        return self.file.tell()

address, path, chunk, dies_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
uploader = TusClient(address).uploader(
    file_stream=File(path, dies_at), chunk_size=chunk, metadata={"filename": "big.png", "dataset": sys.argv[5]}
)
uploader.set_url(uploader.create_url())
uploader.offset = 0
print(uploader.url, flush=True)
uploader.upload()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tus") / "home") as server:
        yield server


@pytest.fixture(autouse=True)
def dataset(server: Server) -> str:
    """One of the test's own."""
    name = f"set-{secrets.token_hex(4)}"
    with server.client() as client:
        client.create_dataset(name)
    return name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "big.png"
    path.write_bytes(CONTENT)
    return path


def uploader(server: Server, dataset: str, file: Path, **options: Any) -> Any:
    known = {"chunk_size": CHUNK, "metadata": {"filename": "big.png", "dataset": dataset}}
    return TusClient(f"{server.url}/api/v1/uploads").uploader(str(file), **known | options)


def arrived(server: Server, dataset: str) -> list[tuple[str, str]]:
    """Name and hash of what the ledger has."""
    database, blobs = Database(f"sqlite:///{server.home / 'patina.db'}"), BlobStore(str(server.home / "blobs"))
    with database.reading() as session:
        rows = datasets.ledger(session, "local", dataset)
        found = [(row.filename, hashlib.sha256(blobs.get_bytes(row.blob_key or "")).hexdigest()) for row in rows]
    database.close()
    return found


WHOLE = [("big.png", hashlib.sha256(CONTENT).hexdigest())]


class TestARealTusClient:
    def test_sends_a_file_with_checksums(self, server: Server, dataset: str, file: Path) -> None:
        uploader(server, dataset, file, upload_checksum=True).upload()
        assert arrived(server, dataset) == WHOLE

    def test_that_is_killed_goes_on_where_it_was(self, server: Server, dataset: str, file: Path) -> None:
        address = f"{server.url}/api/v1/uploads"
        done = subprocess.run(
            [sys.executable, "-c", KILLED_BY_ITSELF, address, str(file), str(CHUNK), str(2 * CHUNK), dataset],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        url = done.stdout.strip()
        assert server.offset(url.removeprefix(server.url)) == 2 * CHUNK
        assert arrived(server, dataset) == []
        uploader(server, dataset, file, url=url).upload()
        assert arrived(server, dataset) == WHOLE

    def test_goes_on_after_the_server_was_killed(self, server: Server, dataset: str, file: Path) -> None:
        sending = uploader(server, dataset, file)
        sending.upload(stop_at=CHUNK)
        server.kill()
        server.start()
        assert server.offset(sending.url.removeprefix(server.url)) == CHUNK
        sending.upload()
        assert arrived(server, dataset) == WHOLE

    def test_goes_on_after_a_connection_that_broke_in_the_middle_of_a_body(
        self, server: Server, dataset: str, file: Path
    ) -> None:
        url = uploader(server, dataset, file).create_url()
        path = url.removeprefix(server.url)
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.putrequest("PATCH", path)
        for name, value in {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": BODY_TYPE,
            "Content-Length": str(len(CONTENT)),
        }.items():
            connection.putheader(name, value)
        connection.endheaders(CONTENT[: len(CONTENT) // 2])
        connection.close()
        until = time.monotonic() + PATIENCE_S
        while server.offset(path) == 0 and time.monotonic() < until:
            pass
        assert server.offset(path) == len(CONTENT) // 2
        uploader(server, dataset, file, url=url).upload()
        assert arrived(server, dataset) == WHOLE
