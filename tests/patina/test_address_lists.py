"""`patina datasets fetch`: lists as people keep them, sent to a real API and fetched by a real light worker."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog

from contracts.failures import InvalidInput
from patina import address_lists
from patina.cli import main
from patina.client import Client
from tests.serving import Server, serving
from tests.worker.conftest import picture
from tests.worker.origins import Origin, answer, ok, origin
from worker import fetch, light
from worker.decode import Decoder
from worker.doorbell import Duty, Shift
from worker.fetch_client import trust
from worker.settings import WorkerSettings
from worker.station import open_station

CAT, DOG = "https://example.com/cat.png", "https://example.com/dog.png"


class TestRead:
    def read(self, folder: Path, name: str, text: str | bytes) -> list[Any]:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return address_lists.read(path)

    def test_text_has_one_address_a_line(self, tmp_path: Path) -> None:
        found = self.read(tmp_path, "list.txt", f"\ufeff# animals\r\n{CAT}\r\n\r\n  {DOG}  \n")
        assert found == [{"url": CAT}, {"url": DOG}]

    def test_csv_and_jsonl_have_captions(self, tmp_path: Path) -> None:
        wanted = [{"url": CAT, "caption": 'a "cat",\nblack'}, {"url": DOG}]
        csv = f'id,url,caption\n1,{CAT},"a ""cat"",\nblack"\n2,{DOG},\n'
        assert self.read(tmp_path, "list.csv", csv) == wanted
        lines = [{"url": CAT, "text": wanted[0]["caption"], "width": 3}, {"url": DOG, "text": None}]
        assert self.read(tmp_path, "list.JSONL", "\n".join(map(json.dumps, lines)) + "\n") == wanted

    def test_every_line_that_cannot_be_taken_is_named_before_anything_is_sent(self, tmp_path: Path) -> None:
        for name, text, wrong in (
            ("list.txt", f"{CAT}\nexample.com\n{DOG}\nfile:///etc/passwd\n", ["/line/2", "/line/4"]),
            (
                "list.jsonl",
                f'{{"url": "{CAT}"}}\n[]\n{{"link": "x"}}\n{{"url": 3}}\n{{',
                [f"/line/{n}" for n in (2, 3, 4, 5)],
            ),
            ("list.csv", "address\nhttps://example.com/a\n", ["/line/1"]),
            ("commas.csv", f"url,caption\n{CAT},a cat, black\n{DOG},a dog,,\n", ["/line/2"]),
            ("short.csv", f"caption,url\nwords,{CAT}\nwords\n", ["/line/3"]),
            ("empty.txt", "# nothing\n", []),
            ("latin.txt", b"https://example.com/\xe9", []),
        ):
            with pytest.raises(InvalidInput) as caught:
                self.read(tmp_path, name, text)
            assert [error.pointer for error in caught.value.errors] == wrong, name
        with pytest.raises(InvalidInput, match="cannot be read"):
            address_lists.read(tmp_path / "nowhere.txt")

    def test_a_long_list_goes_in_parts_a_server_takes(self) -> None:
        sent: list[list[Any]] = []

        class Taking:
            def request(self, method: str, path: str, json: Any) -> Any:
                sent.append(json["urls"])
                return self

            def json(self) -> Any:
                return {"dataset": "ds_1", "new": len(sent[-1]) - 1, "again": 0, "known": 1}

        wanted = [{"url": f"{CAT}?{n}", "caption": "x" * (10_000 if n > 900 else 1)} for n in range(1000)]
        told = address_lists.send(Taking(), "ds_1", wanted)  # type: ignore[arg-type] # takes what a client takes
        assert [one for part in sent for one in part] == wanted
        assert max(map(len, sent)) <= 500
        assert max(len(json.dumps(part)) for part in sent) < 600_000
        assert told == {"new": 1000 - len(sent), "again": 0, "known": len(sent)}


@pytest.fixture
def web() -> Iterator[Origin]:
    with origin() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, web: Origin) -> Iterator[Server]:
    """An API in a process of its own, and the duties of a light worker in threads."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    with serving(tmp_path / "home") as server:
        settings = WorkerSettings(
            home=server.home,
            fetch_allowed_networks=(ip_network("127.0.0.1/32"),),
            fetch_ports=frozenset({web.port}),
        )
        station, shift, decoder, trusted = open_station("light", settings=settings), Shift(), Decoder(), trust()
        shift.begin(
            [
                Duty("light", lambda: light.work(station, decoder, shift), 0.05),
                Duty("fetch", lambda: fetch.work(station, shift, trusted), 0.05),
            ]
        )
        yield server
        shift.drain()
        shift.join()
        decoder.close()
        station.close()
    structlog.reset_defaults()


@pytest.fixture
def command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.setenv("PATINA_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("PATINA_API_URL", server.url)
    monkeypatch.delenv("PATINA_API_KEY", raising=False)

    def run(*arguments: str, code: int = 0) -> str:
        assert main(list(arguments)) == code, capfd.readouterr().out
        return capfd.readouterr().out

    return run


class TestCommand:
    def test_fetches_a_list_and_says_what_became_of_each_address(
        self, server: Server, web: Origin, tmp_path: Path, command: Callable[..., str]
    ) -> None:
        good, gone = web.gives("/good.png", ok(picture(1))), web.gives("/gone", answer("404 No", "content-length: 0"))
        listed = tmp_path / "list.csv"
        listed.write_text(f"url,caption\n{good},a good one\n{gone},nobody's\n")
        told = json.loads(command("datasets", "fetch", "style", str(listed), "--json"))
        assert told["offered"] == {"new": 2, "again": 0, "known": 0}
        assert told["fates"] == {"used": 1, "rejected": 1}
        assert told["ingest"]["status"] == "done"
        assert {row["name"]: row["caption"] for row in told["items"]} == {good: "a good one", gone: None}
        with server.client() as client:
            assert isinstance(client, Client)
            assert client.dataset("style")["images"] == 1
        web.gives("/gone", ok(picture(2)))
        shown = command("datasets", "fetch", "style", str(listed))
        assert "2 used" in shown
        assert web.asked.count("/good.png") == 1, "what the dataset has is not fetched again"

    @pytest.mark.slow
    def test_fails_when_everything_was_rejected_and_still_says_why(
        self, web: Origin, tmp_path: Path, command: Callable[..., str]
    ) -> None:
        gone = web.gives("/gone", answer("404 No", "content-length: 0"))
        (tmp_path / "list.txt").write_text(f"{gone}\n")
        told = json.loads(command("datasets", "fetch", "style", str(tmp_path / "list.txt"), "--json", code=1))
        assert (told["fates"], told["items"][0]["name"]) == ({"rejected": 1}, gone)

    @pytest.mark.slow
    def test_sends_nothing_of_a_list_with_a_mistake(
        self, server: Server, tmp_path: Path, command: Callable[..., str]
    ) -> None:
        listed = tmp_path / "list.txt"
        listed.write_text(f"{CAT}\nexample.com/dog.png\n")
        command("datasets", "fetch", "style", str(listed), code=1)
        with server.client() as client:
            assert client.datasets() == []
