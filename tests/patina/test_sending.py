"""Sending to a real server: killed in the middle and run again, nothing twice and nothing lost."""

from __future__ import annotations

import hashlib
import random
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from catalog.blobs import BlobStore
from catalog.datasets import service as datasets
from catalog.db import Database
from contracts.failures import InvalidInput
from patina import sending, uploading
from patina.client import Client
from patina.wire import READ_TIMEOUT_S
from tests.serving import Server, serving

KILLED_AFTER = """
import os, signal, sys
from pathlib import Path
from patina import sending, uploading
from patina.client import Client

url, folder, dataset, left = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sending.LARGE_BYTES, sending.CHUNK_BYTES = 100_000, 50_000

def advance(count):
    global left
    left -= count
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)

with Client(url) as client:
    sending.send(client, dataset, uploading.find(folder).sent, 1, advance)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sending") / "home") as server:
        yield server


@pytest.fixture
def dataset(server: Server) -> str:
    """One of the test's own."""
    with server.client() as client:
        made: str = client.create_dataset(f"set-{secrets.token_hex(4)}")["id"]
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files that go together and two that are large here."""
    monkeypatch.setattr(sending, "LARGE_BYTES", 100_000)
    monkeypatch.setattr(sending, "CHUNK_BYTES", 50_000)
    source = random.Random(1)
    made = tmp_path / "pictures"
    (made / "sub").mkdir(parents=True)
    for name, size in {"a.png": 3000, "sub/b.png": 2000, "big.png": 270_000, "sub/huge.png": 400_000}.items():
        (made / name).write_bytes(source.randbytes(size))
    (made / "a.txt").write_text("a caption")
    (made / "sub" / "b.txt").write_text("a caption")  # the same words, of another picture
    return made


def arrived(server: Server, dataset: str) -> Counter[tuple[str, str]]:
    """Name and hash of what the ledger has."""
    database, blobs = Database(f"sqlite:///{server.home / 'patina.db'}"), BlobStore(str(server.home / "blobs"))
    with database.reading() as session:
        rows = datasets.ledger(session, "local", dataset)
        found = Counter(
            (row.filename, hashlib.sha256(blobs.get_bytes(row.blob_key)).hexdigest()) for row in rows if row.blob_key
        )
    database.close()
    return found


def wanted(folder: Path) -> Counter[tuple[str, str]]:
    return Counter((name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in uploading.find(folder).sent)


def send(server: Server, dataset: str, folder: Path) -> tuple[sending.Sent, int]:
    told: list[int] = []
    with server.client() as client:
        return sending.send(client, dataset, uploading.find(folder).sent, 3, told.append), sum(told)


def total(folder: Path) -> int:
    return sum(path.stat().st_size for _, path in uploading.find(folder).sent)


class TestSend:
    def test_every_file_arrives_once_and_every_byte_is_told(self, server: Server, dataset: str, folder: Path) -> None:
        sent, told = send(server, dataset, folder)
        assert arrived(server, dataset) == wanted(folder)
        assert (sent.accepted, sent.skipped, sent.refused, told) == (6, [], [], total(folder))

    def test_again_sends_nothing_but_what_is_new_or_changed(self, server: Server, dataset: str, folder: Path) -> None:
        send(server, dataset, folder)
        (folder / "a.txt").write_text("other words")
        (folder / "c.png").write_bytes(b"new")
        sent, told = send(server, dataset, folder)
        assert (sent.accepted, len(sent.skipped), told) == (2, 5, total(folder))
        assert arrived(server, dataset).total() == 8

    def test_a_changed_picture_goes_with_its_caption(self, server: Server, dataset: str, folder: Path) -> None:
        send(server, dataset, folder)
        (folder / "a.png").write_bytes(b"retouched")
        sent, told = send(server, dataset, folder)
        assert (sent.accepted, "a.txt" in sent.skipped, told) == (2, False, total(folder))

    @pytest.mark.parametrize("after", [1, 130_000, 600_000])
    def test_killed_in_the_middle_and_run_again_loses_nothing_and_sends_nothing_twice(
        self, server: Server, dataset: str, folder: Path, after: int
    ) -> None:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AFTER, server.url, str(folder), dataset, str(after)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert arrived(server, dataset) != wanted(folder)
        _, told = send(server, dataset, folder)
        assert arrived(server, dataset) == wanted(folder)
        assert told == total(folder)
        with server.client() as client:
            assert sending.unfinished(client, dataset) == {}

    def test_a_file_that_is_refused_costs_no_other(self, server: Server, dataset: str, folder: Path) -> None:
        (folder / "no.zip").write_bytes(b"not a zip")
        sent, _ = send(server, dataset, folder)
        assert [(file["name"], file["problem"]["code"]) for file in sent.refused] == [("no.zip", "not_a_zip")]
        again, _ = send(server, dataset, folder)
        assert [file["name"] for file in again.refused] == ["no.zip"]
        assert arrived(server, dataset).total() == 6

    def test_a_file_that_is_gone_meanwhile_is_named(self, folder: Path) -> None:
        files = uploading.find(folder).sent
        files[0][1].unlink()
        with (
            Client("http://patina.test", transport=httpx.MockTransport(lambda request: httpx.Response(500))) as client,
            pytest.raises(InvalidInput, match=f"{files[0][0]} cannot be read any more: No such file"),
        ):
            sending.send(client, "ds", files, 1, lambda count: None)

    @pytest.mark.parametrize(
        "limits",
        [
            *(pytest.param({"PATINA_MAX_UPLOAD_FILES": n}, marks=pytest.mark.slow) for n in ("1", "3")),
            {"PATINA_MAX_UPLOAD_BYTES": "2700"},
        ],
    )
    def test_a_server_that_takes_only_small_requests_gets_them(
        self, tmp_path: Path, folder: Path, limits: dict[str, str]
    ) -> None:
        with serving(tmp_path / "home", **limits) as small:
            with small.client() as client:
                made: str = client.create_dataset("small")["id"]
            sent, told = send(small, made, folder)
            assert (sent.accepted, sent.refused, told) == (6, [], total(folder))
            assert arrived(small, made) == wanted(folder)

    def test_a_file_over_the_limit_of_files_is_refused_alone_and_names_the_setting(
        self, tmp_path: Path, folder: Path
    ) -> None:
        with serving(tmp_path / "home", PATINA_MAX_UPLOAD_FILES="2", PATINA_MAX_FILE_BYTES="2500") as small:
            with small.client() as client:
                made: str = client.create_dataset("small")["id"]
            sent, _ = send(small, made, folder)
            assert sorted(file["name"] for file in sent.refused) == ["a.png", "big.png", "sub/huge.png"]
            assert all("PATINA_MAX_FILE_BYTES" in file["problem"]["message"] for file in sent.refused)
            with small.client() as client:
                assert len(client.ledger(made)) == 6

    def test_what_was_too_much_once_is_not_tried_again(self, tmp_path: Path) -> None:
        tried: list[int] = []

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("received-files"):
                return httpx.Response(200, json={"received": [False] * 8})
            if request.url.path.endswith("uploads"):
                return httpx.Response(200, json=[])
            tried.append(request.read().count(b"filename="))
            if tried[-1] > 2:
                words = {"code": "too_large", "detail": "over (PATINA_MAX_UPLOAD_FILES)", "hint": "no"}
                return httpx.Response(413, json=words)
            return httpx.Response(202, json={"files": []})

        for n in range(8):
            (tmp_path / f"{n}.png").write_bytes(b"x")
        files = [(path.name, path) for path in sorted(tmp_path.iterdir())]
        with Client("http://localhost", transport=httpx.MockTransport(answer)) as client:
            sending.send(client, "ds_1", files, 1, lambda _: None)
        assert tried == [8, 4, 2, 2, 2, 2]

    def test_when_nothing_at_all_is_taken_every_reason_is_told(
        self, server: Server, dataset: str, tmp_path: Path
    ) -> None:
        for name in ("no.zip", "nor.zip"):
            (tmp_path / name).write_bytes(b"not a zip")
        sent, _ = send(server, dataset, tmp_path)
        assert (sent.accepted, [file["name"] for file in sent.refused]) == (0, ["no.zip", "nor.zip"])
        assert all(file["name"] in file["problem"]["message"] for file in sent.refused)

    def test_the_server_may_take_its_time_to_put_a_large_file_together(self, folder: Path) -> None:
        patience: list[float] = []

        def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "PATCH":
                patience.append(request.extensions["timeout"]["read"])
                start = int(request.headers["upload-offset"])
                return httpx.Response(204, headers={"upload-offset": str(start + len(request.content))})
            if request.url.path.endswith("received-files"):
                return httpx.Response(200, json={"received": [False]})
            return httpx.Response(201, headers={"location": "/api/v1/uploads/upl_1"}, json=[])

        with Client("http://localhost", transport=httpx.MockTransport(answer)) as client:
            sending.send(client, "ds_1", [("big.png", folder / "big.png")], 1, lambda _: None)
        assert min(patience) > READ_TIMEOUT_S

    def test_a_file_that_becomes_shorter_meanwhile_is_refused_alone(self, folder: Path) -> None:
        patched: list[tuple[int, int]] = []

        def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "PATCH":
                patched.append((int(request.headers["upload-offset"]), len(request.content)))
                if not request.content:
                    raise AssertionError("nothing is left to be sent")
                (folder / "big.png").write_bytes(b"x" * 60_000)
                return httpx.Response(204, headers={"upload-offset": str(sum(patched[-1]))})
            if request.url.path.endswith("received-files"):
                return httpx.Response(200, json={"received": [False, True]})
            return httpx.Response(201, headers={"location": "/api/v1/uploads/upl_1"}, json=[])

        files = [("big.png", folder / "big.png"), ("a.png", folder / "a.png")]
        with Client("http://localhost", transport=httpx.MockTransport(answer)) as client:
            sent = sending.send(client, "ds_1", files, 1, lambda _: None)
        (refused,) = sent.refused
        assert refused["problem"]["message"] == "big.png became shorter while it was sent: it had 270000 bytes."
        assert (patched, sent.skipped) == ([(0, 50_000), (50_000, 10_000)], ["a.png"])

    @pytest.mark.parametrize("gone", [False, True])
    def test_a_chunk_that_arrives_damaged_is_sent_again_and_a_damaged_whole_is_refused(
        self, folder: Path, gone: bool
    ) -> None:
        patched: list[int] = []

        def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "PATCH":
                start = int(request.headers["upload-offset"])
                patched.append(start)
                if len(patched) == 1:
                    return httpx.Response(460, json={"code": "checksum_mismatch", "detail": "no", "hint": "no"})
                return httpx.Response(204, headers={"upload-offset": str(start + len(request.content))})
            if request.method == "HEAD":  # as over a real connection, where its answer has no body to say more
                return httpx.Response(404) if gone else httpx.Response(200, headers={"upload-offset": "0"})
            if request.url.path.endswith("received-files"):
                return httpx.Response(200, json={"received": [False, True]})
            return httpx.Response(201, headers={"location": "/api/v1/uploads/upl_1"}, json=[])

        files = [("big.png", folder / "big.png"), ("a.png", folder / "a.png")]
        with Client("http://localhost", transport=httpx.MockTransport(answer), pause=lambda _: None) as client:
            sent = sending.send(client, "ds_1", files, 1, lambda _: None)
        assert [one["problem"]["code"] for one in sent.refused] == (["checksum_mismatch"] if gone else [])
        assert patched[:2] == ([0] if gone else [0, 0])
