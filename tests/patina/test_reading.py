"""What the command shows while the server reads an upload: a real API and light worker, and a stand-in of the hub."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from patina import ingests
from patina.cli import main
from patina.client import Client
from tests.hub import hub
from tests.serving import Server, serving
from tests.worker.conftest import picture, zipped
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.settings import WorkerSettings
from worker.station import open_station

SEEN: dict[str, Any] = {
    "dataset": "ds_1",
    "status": "reading",
    "phase": None,
    "file": None,
    "file_done": None,
    "file_total": None,
    "found": 4,
    "done": 1,
    "used": 1,
    "duplicate": 0,
    "rejected": 0,
    "found_bytes": 4000,
    "done_bytes": 1000,
    "waits_for": None,
}


@pytest.fixture(autouse=True)
def _quiet_worker() -> Iterator[None]:
    """The worker is a thread here: what it logs is not what the command says."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("reading") / "home") as server:
        yield server


@pytest.fixture
def command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Runs one command against the server; its document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATINA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATINA_API_URL", server.url)
    monkeypatch.delenv("PATINA_API_KEY", raising=False)

    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0, capfd.readouterr().out
        return json.loads(capfd.readouterr().out)

    return run


@contextmanager
def working(server: Server) -> Iterator[None]:
    """A light worker reads whatever comes, until the end of the block."""
    over = threading.Event()
    station = open_station("test", ("cpu",), WorkerSettings(home=server.home, device="cpu"))

    def work() -> None:
        with Decoder() as decoder:
            while not over.is_set():
                light.work(station, decoder, Shift()) or over.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        station.close()


def folder(tmp_path: Path, pictures: int = 3) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for n in range(pictures):
        (made / f"{n}.png").write_bytes(picture(n))
        (made / f"{n}.txt").write_text(f"number {n}")
    return made


class TestUpload:
    def test_of_a_data_set_on_the_hub_is_that_of_a_folder(
        self, server: Server, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = "\n".join(json.dumps({"file_name": f"{n}.png", "text": f"number {n}"}) for n in range(2))
        files = {f"train/{n}.png": picture(n) for n in range(2)} | {"train/metadata.jsonl": lines.encode()}
        files |= {"more.zip": zipped({"x.png": picture(7), "x.txt": b"an x"}), "load.py": b"x"}
        with hub() as served, working(server):
            served.datasets["ada/cats"] = files
            for name, value in served.environment(tmp_path / "hub").items():
                monkeypatch.setenv(name, value)
            told = command("datasets", "upload", "ada/cats", "--name", "from-hub")
        assert (told["dataset"]["images"], told["ingest"]["status"]) == (3, "done")
        assert [one["name"] for one in told["left_out"]] == ["load.py"]
        with server.client() as client:
            rows = client.ledger("from-hub")
        captions = {row["name"]: row["caption"] for row in rows if row["kind"] == "image"}
        assert captions == {"train/0.png": "number 0", "train/1.png": "number 1", "x.png": "an x"}

    @pytest.mark.usefixtures("command")
    def test_of_which_nothing_can_be_used_fails_and_still_says_what_became_of_it(
        self, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        made = folder(tmp_path, pictures=0)
        (made / "a.png").write_bytes(b"no picture")
        (made / "a.txt").write_text("a caption")
        (made / "b.zip").write_bytes(zipped({"x.png": b"nor this"}))
        with working(server):
            assert main(["datasets", "upload", str(made), "--name", "nothing", "--json"]) == 1
            told = json.loads(capfd.readouterr().out)
            assert (told["dataset"]["images"], told["ingest"]["status"]) == (0, "done")
            (made / "c.png").write_bytes(picture(1))
            assert main(["datasets", "upload", str(made), "--name", "nothing", "--json"]) == 0

    @pytest.mark.usefixtures("command")
    def test_that_is_refused_whole_at_the_door_names_every_file_and_fails(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        made = folder(tmp_path, pictures=0)
        for name in ("a.zip", "b.zip"):
            (made / name).write_bytes(b"no zip")
        assert main(["datasets", "upload", str(made), "--name", "refused", "--json"]) == 1
        told = json.loads(capfd.readouterr().out)
        assert [file["name"] for file in told["refused"]] == ["a.zip", "b.zip"]
        assert told["fates"] == {"rejected": 2}

    def test_says_once_what_became_of_a_file_and_why_others_are_not_sent(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = folder(tmp_path)
        for name in ("still.gif", "scan.tiff", "notes.pdf", ".b.jpg"):
            (made / name).write_bytes(b"x")
        (made / "big.png").write_bytes(b"x" * 5001)
        with serving(tmp_path / "strict", PATINA_MAX_FILE_BYTES="5000") as strict, working(strict):
            monkeypatch.setenv("PATINA_API_URL", strict.url)
            assert main(["datasets", "upload", str(made), "--name", "mixed"]) == 0
        said = " ".join(capfd.readouterr().out.split())
        assert said.count("big.png") == 1
        assert "big.png is over 5000 bytes (PATINA_MAX_FILE_BYTES)." in said
        assert "not sent 2 (a picture in a format that is not taken; convert it to one of .png" in said
        assert ": scan.tiff, still.gif " in said
        assert "not sent 1 (not an image (.png" in said
        assert "begins with a dot; rename it to have it sent): .b.jpg" in said

    def test_interrupted_while_the_server_reads_says_how_to_follow_it(
        self, server: Server, command: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: object) -> Iterator[Any]:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Client, "events", interrupted)
            assert main(["datasets", "upload", str(folder(tmp_path)), "--name", "broken-off"]) == 130
        said = capfd.readouterr().err
        assert "patina datasets watch broken-off" in said
        assert "patina datasets cancel broken-off" in said
        with working(server):
            seen = command("datasets", "watch", "broken-off")
        assert (seen["status"], seen["found"], seen["done"], seen["used"]) == ("done", 6, 6, 6)

    @pytest.mark.usefixtures("command")
    def test_interrupted_while_it_is_sent_says_how_to_go_on(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(Client, "upload", interrupted)
        assert main(["datasets", "upload", str(folder(tmp_path)), "--name", "half-sent"]) == 130
        assert "the same command again" in capfd.readouterr().err

    def test_cancelled_and_run_again_sends_what_was_not_read(
        self, server: Server, command: Any, tmp_path: Path
    ) -> None:
        source = folder(tmp_path)
        with server.client() as client:
            dataset = client.create_dataset("cancelled")["id"]
            client.upload(dataset, [(path.name, path) for path in sorted(source.iterdir())])
        seen = command("datasets", "cancel", "cancelled")
        assert (seen["status"], seen["rejected"]) == ("cancelled", 6)
        with working(server):
            told = command("datasets", "upload", str(source), "--name", "cancelled")
        assert (told["fates"], told["skipped"], told["dataset"]["images"]) == ({"used": 6}, [], 3)


class TestFollow:
    def test_ends_with_what_the_last_event_says(self) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            if not request.url.path.endswith("/events"):
                return httpx.Response(200, json=SEEN)
            steps = [("progress", SEEN | {"done": 3}), ("status", SEEN | {"done": 4, "status": "done"})]
            return httpx.Response(
                200, text="".join(f"event: {kind}\ndata: {json.dumps(said)}\n\n" for kind, said in steps)
            )

        with Client("http://localhost", transport=httpx.MockTransport(answer)) as client:
            seen = ingests.follow(client, "ds_1", quiet=True)
        assert (seen["status"], seen["done"]) == ("done", 4)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"phase": "unpacking", "file": "set.zip", "file_done": 3, "file_total": 9}, "unpacking set.zip 3/9"),
            ({"phase": "unpacking", "file": "all.parquet", "file_done": 3}, "unpacking all.parquet 3"),
            ({"phase": "decoding", "file": "a.png"}, "decoding a.png"),
            ({"phase": "settling"}, "bringing captions and pictures together"),
            ({"status": "queued"}, "queued"),
            ({"status": "cancelling", "phase": "decoding", "file": "a.png"}, "cancelling"),
            ({"phase": "decoding", "waits_for": "a.zip: no room"}, "a.zip: no room"),
        ],
    )
    def test_says_what_the_server_does(self, change: dict[str, Any], words: str) -> None:
        assert ingests.doing(SEEN | change) == words

    def test_a_long_name_is_told_by_its_end(self) -> None:
        assert ingests.doing(SEEN | {"phase": "decoding", "file": "x" * 4000 + "/a.png"}).endswith("xxx/a.png")
        assert len(ingests.doing(SEEN | {"phase": "decoding", "file": "x" * 4000})) < 80
