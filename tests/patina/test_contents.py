"""`patina datasets ledger` and `captions` against the real application, without a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage
from catalog.jobs import claim as claim_job
from patina.cli import main
from patina.client import Client

NAMES = ("cat.png", "dog.png", "cat.txt", "dog.txt")


@pytest.fixture(autouse=True)
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A dataset `style` of two images, each with the caption "a NAME.txt"."""
    with TestClient(
        create_app(ApiSettings(home=tmp_path)), base_url="http://localhost", client=("127.0.0.1", 1)
    ) as web:
        database = web.app.state.parts.database  # type: ignore[attr-defined]
        with database.session() as session:
            made = datasets.create(session, "local", "style").id
            for name in NAMES:
                datasets.offer_upload(session, "local", made, name, "uploads/local/x", 1)
        with database.session() as session:
            (claim,) = claim_job(session, "light", "test", 60)
            for n, row in enumerate(ingest.pending_files(session, claim)):
                if row.kind == "image":
                    ingest.record_image(session, claim, row.id, DecodedImage(f"{n}" * 64, 64, 64, f"images/{n}"))
                else:
                    ingest.record_caption(session, claim, row.id, f"a {row.filename}")
            ingest.finish(session, claim)

        def forward(request: httpx.Request) -> httpx.Response:
            sent = web.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
            return httpx.Response(sent.status_code, headers=dict(sent.headers), content=sent.content)

        monkeypatch.setattr(
            "patina.commands.dataset_contents.connect",
            lambda: Client("http://localhost", transport=httpx.MockTransport(forward)),
        )
        yield


def run(capfd: pytest.CaptureFixture[str], *words: str) -> Any:
    code = main(["datasets", *words, "--json"])
    document = json.loads(capfd.readouterr().out)
    return document if code == 0 else document["code"]


def captions(capfd: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {one["name"]: one["caption"] for one in run(capfd, "captions", "ls", "style")["items"]}


class TestCaptions:
    def test_all_are_edited_one_is_set_and_both_are_undone(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(capfd, "captions", "trigger", "style", "sks", "--dry-run")["changed"] == 2
        assert run(capfd, "captions", "replace", "style", r"(\w+)\.txt", r"\1", "--regex")["changed"] == 2
        run(capfd, "captions", "set", "style", "cat.png", "my cat")
        assert captions(capfd) == {"cat.png": "my cat", "dog.png": "a dog"}
        run(capfd, "captions", "undo", "style")
        run(capfd, "captions", "undo", "style")
        assert captions(capfd) == {"cat.png": "a cat.txt", "dog.png": "a dog.txt"}
        assert run(capfd, "captions", "undo", "style") == "conflict"

    def test_an_image_is_taken_out_and_put_back_by_name_or_identity(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(capfd, "captions", "remove", "style", "1111")["removed"] is True
        assert set(captions(capfd)) == {"cat.png"}
        assert run(capfd, "captions", "remove", "style", "dog.png") == "not_found"
        assert run(capfd, "captions", "restore", "style", "dog.png")["removed"] is False
        assert set(captions(capfd)) == {"cat.png", "dog.png"}


class TestLedger:
    def test_it_is_a_table_with_its_numbers(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["datasets", "ledger", "style", "--resolution", "128"]) == 0
        shown = capfd.readouterr().out
        assert "4: 4 used" in shown
        assert "128x128" in shown

    def test_it_is_written_as_csv_and_picked_by_fate(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        run(capfd, "captions", "remove", "style", "dog.png")
        target = tmp_path / "ledger.csv"
        run(capfd, "ledger", "style", "--fate", "rejected", "--csv", str(target))
        assert len(target.read_text().splitlines()) == 3
        assert {row["name"] for row in run(capfd, "ledger", "style", "--fate", "rejected")["items"]} == {
            "dog.png",
            "dog.txt",
        }
