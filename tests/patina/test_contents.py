"""`patina datasets` on what is in a dataset and in its versions, against the real application, without a socket."""

from __future__ import annotations

import io
import json
import zipfile
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
from catalog.db import Database
from catalog.jobs import claim as claim_job
from patina import ingests
from patina.cli import main
from patina.client import Client, Json
from tests.databases import new_home
from tests.patina.conftest import know_a_base

PIXELS = b"as the store keeps them"
LIKENESS = "0f" * 16
NAMES = ("cat.png", "dog.png", "cat.txt", "dog.txt")


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A dataset `style` of two images, each with the caption "a NAME.txt"."""
    with TestClient(
        create_app(ApiSettings(home=new_home(tmp_path))), base_url="http://localhost", client=("127.0.0.1", 1)
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
                    web.app.state.parts.blobs.put_bytes(f"images/{n}", PIXELS)  # type: ignore[attr-defined]
                    ingest.record_image(
                        session, claim, row.id, DecodedImage(f"{n}" * 64, 64, 64, f"images/{n}", likeness=LIKENESS)
                    )
                else:
                    ingest.record_caption(session, claim, row.id, f"a {row.filename}")
            ingest.finish(session, claim)

        def forward(request: httpx.Request) -> httpx.Response:
            sent = web.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
            return httpx.Response(sent.status_code, headers=dict(sent.headers), content=sent.content)

        for commands in ("datasets", "dataset_contents", "dataset_removal", "dataset_versions"):
            monkeypatch.setattr(
                f"patina.commands.{commands}.connect",
                lambda: Client("http://localhost", transport=httpx.MockTransport(forward)),
            )
        yield database


def run(capfd: pytest.CaptureFixture[str], *words: str) -> Any:
    code = main(["datasets", *words, "--json"])
    shown = capfd.readouterr().out
    document = json.loads(shown[shown.index("{\n") :])  # the server, which is in this process, may log before it
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

    def test_it_has_the_buckets_of_a_base_also_as_csv(
        self, capfd: pytest.CaptureFixture[str], tmp_path: Path, database: Database
    ) -> None:
        know_a_base(database, "large", 512)
        target = tmp_path / "ledger.csv"
        assert main(["datasets", "ledger", "style", "--base", "large"]) == 0
        assert "512x512" in capfd.readouterr().out
        run(capfd, "ledger", "style", "--base", "large", "--resolution", "200", "--csv", str(target))
        assert "192x192" in target.read_text()
        for csv in ((), ("--csv", str(target))):
            assert run(capfd, "ledger", "style", "--base", "large&base=none", *csv) == "unknown_base"

    def test_it_is_written_as_csv_and_picked_by_fate(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        run(capfd, "captions", "remove", "style", "dog.png")
        target = tmp_path / "ledger.csv"
        run(capfd, "ledger", "style", "--fate", "rejected", "--csv", str(target))
        assert len(target.read_text().splitlines()) == 3
        assert {row["name"] for row in run(capfd, "ledger", "style", "--fate", "rejected")["items"]} == {
            "dog.png",
            "dog.txt",
        }


class TestMarks:
    def test_one_keeps_its_image_in_a_split_until_it_is_taken_back(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(capfd, "captions", "mark", "style", "dog.png", "held_out")["split"] == "held_out"
        assert run(capfd, "freeze", "style", "--held-out-share", "0")["held_out_images"] == 1
        assert run(capfd, "captions", "mark", "style", "dog.png")["split"] is None
        assert run(capfd, "freeze", "style", "--held-out-share", "0")["held_out_images"] == 0
        assert run(capfd, "captions", "mark", "style", "dog.png", "sometimes") == "invalid_input"


class TestVersions:
    def test_they_are_listed_and_compared(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(capfd, "versions", "style")["items"] == []
        run(capfd, "freeze", "style")
        run(capfd, "captions", "set", "style", "cat.png", "my cat")
        run(capfd, "freeze", "style")
        assert [one["version"] for one in run(capfd, "versions", "style")["items"]] == [2, 1]
        (changed,) = run(capfd, "diff", "style", "1", "2")["caption_changed"]
        assert (changed["name"], changed["before"], changed["after"]) == ("cat.png", "a cat.txt", "my cat")
        assert main(["datasets", "diff", "style", "1", "2"]) == 0
        assert "a cat.txt → my cat" in capfd.readouterr().out
        assert run(capfd, "diff", "style", "1", "3") == "not_found"

    def test_a_picture_that_changed_its_split_alone_is_told_with_both(self, capfd: pytest.CaptureFixture[str]) -> None:
        run(capfd, "freeze", "style", "--held-out-share", "0")
        run(capfd, "captions", "mark", "style", "dog.png", "held_out")
        run(capfd, "freeze", "style", "--held-out-share", "0")
        (changed,) = run(capfd, "diff", "style", "1", "2")["otherwise_changed"]
        assert changed["changes"] == [{"what": "split", "before": "train", "after": "held_out"}]
        assert main(["datasets", "diff", "style", "1", "2"]) == 0
        shown = capfd.readouterr().out.splitlines()
        assert ["split", "dog.png", "train", "→", "held_out"] in [line.split() for line in shown]

    def test_one_is_downloaded_whole_and_never_over_what_it_was_made_of(
        self, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "style.zip").write_bytes(b"the only copy")
        assert run(capfd, "download", "style") == "not_found"
        run(capfd, "freeze", "style")
        told = run(capfd, "download", "style")
        assert (tmp_path / "style.zip").read_bytes() == b"the only copy"
        assert told == {"file": "style-v1.zip", "bytes": (tmp_path / "style-v1.zip").stat().st_size}
        with zipfile.ZipFile(tmp_path / "style-v1.zip") as archive:
            assert {archive.read(name) for name in archive.namelist() if name.endswith(".png")} == {PIXELS}
            assert len(archive.read("metadata.jsonl").splitlines()) == 2
        run(capfd, "download", "style", "--version", "1", "--parquet", "-o", str(tmp_path / "a" / "b.parquet"))
        assert (tmp_path / "a" / "b.parquet").read_bytes()[:4] == b"PAR1"
        assert not list(tmp_path.rglob("*.part"))
        assert run(capfd, "download", "style", "-o", str(tmp_path / "style.zip" / "x.zip")) == "invalid_input"


class TestTables:
    def test_name_the_file_another_one_looks_like_and_cut_long_captions_short(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run(capfd, "captions", "set", "style", "cat.png", "a very long story " * 30)
        assert main(["datasets", "ledger", "style"]) == 0
        told = " ".join(capfd.readouterr().out.split())
        assert "looks like cat.png" in told or "looks like dog.png" in told
        assert main(["datasets", "captions", "ls", "style"]) == 0
        assert len(capfd.readouterr().out) < 1500


class TestUpload:
    def test_freezes_what_was_probably_not_meant_only_when_told_to(
        self, capfd: pytest.CaptureFixture[str], tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_first(client: Client, dataset_id: str, *, quiet: bool) -> Json:
            with database.session() as session:
                for claim in claim_job(session, "light", "test", 60):
                    for row in ingest.pending_files(session, claim):
                        ingest.reject(session, claim, row.id, "no picture")
                    ingest.finish(session, claim)
            return follow(client, dataset_id, quiet=quiet)

        follow = ingests.follow
        monkeypatch.setattr(ingests, "follow", read_first)
        for name in NAMES[:2]:
            run(capfd, "captions", "set", "style", name, "")
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "bird.png").write_bytes(b"none")
        words = ["upload", str(tmp_path / "more"), "--name", "style", "--freeze"]
        assert run(capfd, *words) == "doubtful_dataset"
        assert main(["datasets", *words]) != 0
        assert "bird.png: no picture" in capfd.readouterr().out
        assert main(["datasets", *words, "--yes", "--json"]) == 1, "all that was offered now was rejected"
        shown = capfd.readouterr().out
        assert json.loads(shown[shown.index("{\n") :])["version"]["train_images"] == 1


class TestRemove:
    def test_asks_and_then_it_is_gone(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        assert main(["datasets", "rm", "style"]) != 0
        assert main(["datasets", "ledger", "style"]) == 0
        assert main(["datasets", "rm", "style", "--yes"]) == 0
        assert main(["datasets", "ledger", "style"]) != 0

    def test_shows_what_came_of_it_and_does_what_was_answered(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["datasets", "freeze", "style", "--yes"]) == 0
        assert main(["datasets", "rm", "style", "--yes"]) != 0
        shown = " ".join(capsys.readouterr().err.split())
        assert "1 version came of it" in shown
        assert "--keep-history" in shown
        for answers in ("n\nn\n", "n\n"):
            monkeypatch.setattr("sys.stdin", io.StringIO(answers))
            assert main(["datasets", "rm", "style"]) != 0
        monkeypatch.setattr("sys.stdin", io.StringIO("n\ny\n"))
        assert main(["datasets", "rm", "style"]) == 0
        assert "style@1" in capsys.readouterr().err
        assert main(["datasets", "ledger", "style"]) != 0

    def test_one_image_goes_from_the_dataset_or_everywhere(self, capfd: pytest.CaptureFixture[str]) -> None:
        run(capfd, "freeze", "style", "--yes")
        assert run(capfd, "rm", "style", "--image", "dog.png", "--yes") == "has_offspring"
        assert run(capfd, "rm", "style", "--image", "dog.png", "--yes", "--keep-history")["keep"] == "history"
        assert set(captions(capfd)) == {"cat.png"}
        assert run(capfd, "versions", "style")["items"][0]["withdrawn"] is False
        run(capfd, "rm", "style", "--image", "1111", "--yes", "--remove", "versions")
        assert run(capfd, "versions", "style")["items"][0]["withdrawn"] is True
        assert run(capfd, "captions", "ls", "style", "--removed")["items"] == []

    def test_the_latest_is_the_newest_that_was_not_withdrawn(
        self, capfd: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        run(capfd, "freeze", "style", "--held-out-share", "0")
        run(capfd, "captions", "set", "style", "cat.png", "another")
        run(capfd, "freeze", "style", "--held-out-share", "0")
        run(capfd, "rm", "style", "--version", "2", "--yes")
        assert run(capfd, "download", "style", "-o", str(tmp_path))["file"] == str(tmp_path / "style-v1.zip")
        run(capfd, "rm", "style", "--version", "1", "--yes")
        assert run(capfd, "download", "style", "-o", str(tmp_path)) == "not_found"

    def test_a_version_is_withdrawn(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        run(capfd, "freeze", "style", "--yes")
        run(capfd, "rm", "style", "--version", "1", "--yes")
        assert run(capfd, "download", "style", "--version", "1", "-o", str(tmp_path / "x.zip")) == "conflict"

    def test_a_choice_there_is_not_is_named(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(capfd, "rm", "style", "--yes", "--remove", "everything") == "invalid_input"
