"""`patina datasets|runs|weights rm` against the real application, without a socket."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from catalog import jobs
from catalog.bases import service as bases
from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage
from catalog.db import Database
from catalog.registry import service as registry
from catalog.runs import progress
from catalog.runs import service as runs
from contracts.adapter import AdapterHeader
from contracts.run import RunRequest
from contracts.rundir import Completed
from patina.cli import main
from patina.client import Client
from tests.databases import new_home
from tests.worker.runs import IDENTITY, description

HEADER = AdapterHeader(
    name="ours", method="lora", base_identity=IDENTITY, config_digest="c" * 64, dataset_version="d" * 64,
    trigger_word=None, rank=4, alpha=4, targets="attn", resolution_px=64, prediction_type="epsilon", steps=10,
    created="2026-01-01T00:00:00Z",
)  # fmt: skip
DONE = Completed(
    step=10, train_seconds=1, loss_first=1, loss_last=1, held_out_loss_before=None, held_out_loss_after=None,
    tracking="off",
)  # fmt: skip


@pytest.fixture(autouse=True)
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run on one picture that has published `ours`."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quick.yaml").write_text("steps: 10\n")
    application = create_app(ApiSettings(home=new_home(tmp_path), recipes=tmp_path / "recipes"))
    with TestClient(application, base_url="http://localhost", client=("127.0.0.1", 1)) as web:
        made = trained(application.state.parts.database, tmp_path / "recipes")

        def forward(request: httpx.Request) -> httpx.Response:
            sent = web.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
            return httpx.Response(sent.status_code, headers=dict(sent.headers), content=sent.content)

        for commands in ("runs", "weights", "dataset_removal"):
            monkeypatch.setattr(
                f"patina.commands.{commands}.connect",
                lambda: Client("http://localhost", transport=httpx.MockTransport(forward)),
            )
        yield made


def trained(database: Database, recipes: Path) -> str:
    with database.session() as session:
        bases.add(session, "tiny", "nowhere", None, description())
        dataset = datasets.create(session, "local", "style").id
        datasets.offer_upload(session, "local", dataset, "a.png", "uploads/local/x", 1)
    with database.session() as session:
        (claim,) = jobs.claim(session, jobs.Queue.LIGHT, "test", 60)
        (row,) = ingest.pending_files(session, claim)
        ingest.record_image(session, claim, row.id, DecodedImage("a" * 64, 64, 64, "images/a"))
        ingest.finish(session, claim)
    with database.session() as session:
        datasets.freeze(session, "local", dataset, accept_warnings=True)
        run = runs.create(session, "local", RunRequest(dataset="style", base="tiny", recipe="quick"), recipes)
        (claim,) = jobs.claim(session, jobs.Queue.TRAIN, "test", 60)
        progress.begin(session, claim, "cpu", keeps_directory=False)
        registry.publish(session, claim, registry.Publication(HEADER, f"runs/{run.id}/1/w", "e" * 64, 9, {}))
        progress.complete(session, claim, DONE)
        return run.id


def answer(capfd: pytest.CaptureFixture[str], *words: str) -> Any:
    code = main([*words, "--json"])
    shown = capfd.readouterr().out
    document = json.loads(shown[shown.index("{\n") :])  # the server, which is in this process, may log before it
    return document if code == 0 else document["code"]


class TestNobodyToAsk:
    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            (["weights", "rm", "ours@1"], "Add --yes."),
            (["runs", "rm", "last", "--keep-history"], "Add --yes."),
            (["runs", "rm", "last"], "Add --yes, and --keep-history or --remove weights."),
            (["datasets", "rm", "style"], "Add --yes, and --keep-history or --remove versions,runs,weights."),
        ],
    )
    def test_is_refused_in_a_document_or_a_panel_that_says_what_to_add(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], hint: str
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        code = main([*words, "--json"])
        shown = capfd.readouterr().out
        problem = json.loads(shown[shown.index("{\n") :])
        assert (code, problem["code"], problem["hint"]) == (1, "invalid_input", hint)
        assert main(words) == 1
        assert hint in " ".join(capfd.readouterr().err.replace("│", " ").split())
        assert len(answer(capfd, "weights", "ls")["items"]) == 1


class TestRuns:
    def test_one_goes_as_was_chosen_and_its_weights_stay(self, capfd: pytest.CaptureFixture[str], run_id: str) -> None:
        assert answer(capfd, "runs", "rm", "last", "--yes") == "has_offspring"
        assert answer(capfd, "runs", "rm", run_id, "--yes", "--remove", "runs") == "invalid_input"
        assert answer(capfd, "runs", "rm", run_id, "--yes", "--keep-history")["keep"] == "history"
        assert answer(capfd, "runs", "show", run_id) == "not_found"
        (left,) = answer(capfd, "weights", "ls")["items"]
        assert (left["name"], left["run"], left["datasets"][0]["name"]) == ("ours", None, "style")

    def test_the_choice_that_was_given_is_asked_about(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run_id: str
    ) -> None:
        for said, left in (("n\n", 1), ("y\n", 0)):
            monkeypatch.setattr("sys.stdin", io.StringIO(said))
            main(["runs", "rm", run_id, "--remove", "weights"])
            shown = capfd.readouterr().err
            assert "ours@1" in shown
            assert "its weights go with it" in shown
            assert len(answer(capfd, "weights", "ls")["items"]) == left


class TestDatasets:
    def test_a_refusal_names_the_options_and_lists_what_came_of_it(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["datasets", "rm", "style", "--yes"]) == 1
        said = " ".join(capfd.readouterr().err.replace("│", " ").split())
        for option in ("`--keep-history` (", "`--remove versions,runs,weights` ("):
            assert option in said
        assert "style@1" in said
        assert "ours@1" in said
        assert "keep=history" not in said

    def test_what_cannot_be_chosen_names_the_options(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["datasets", "rm", "style", "--yes", "--remove", "runs"]) == 1
        said = " ".join(capfd.readouterr().err.replace("│", " ").split())
        assert "/remove say --keep-history or --remove versions,runs,weights" in said

    def test_the_question_names_the_options(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("n\nn\n"))
        assert main(["datasets", "rm", "style"]) != 0
        said = " ".join(capfd.readouterr().err.split())
        assert "--keep-history: runs and weights stay" in said


class TestWeights:
    def test_a_version_goes_when_it_is_meant(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert answer(capfd, "weights", "rm", "ours", "--yes") == "invalid_input"
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        assert main(["weights", "rm", "ours@latest"]) != 0
        capfd.readouterr()
        assert answer(capfd, "weights", "rm", "ours@latest", "--yes")["removed"]["version"] == 1
        assert answer(capfd, "weights", "ls")["items"] == []
