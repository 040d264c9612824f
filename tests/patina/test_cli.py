"""The command line itself: what goes to which stream, and with which exit code. No server runs here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from contracts.failures import FailureCode
from patina.cli import main

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _nothing_of_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATINA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATINA_API_URL", NOWHERE)
    monkeypatch.delenv("PATINA_API_KEY", raising=False)


def _problem(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


class TestFailures:
    def test_one_panel_with_the_words_and_the_hint_goes_to_standard_error(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["runs", "ls"]) == 1
        shown = capfd.readouterr()
        assert shown.out == ""
        assert "server_unreachable" in shown.err
        assert NOWHERE in shown.err
        assert "patina up" in shown.err

    def test_with_json_the_problem_is_the_one_document(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, problem = _problem(capfd, "runs", "ls")
        assert (code, problem["code"]) == (1, "server_unreachable")
        assert set(problem) == {"type", "title", "detail", "code", "hint"}

    def test_every_wrong_field_is_listed(self, capfd: pytest.CaptureFixture[str]) -> None:
        words = ["generate", "x", "-o", "a.png", "--weights", "a b", "--seed=-1", "--images", "99", "--size", "big"]
        code, problem = _problem(capfd, *words)
        assert code == 1
        assert {e["pointer"] for e in problem["errors"]} == {"/weights", "/seed", "/images", "/size"}

    def test_a_command_that_cannot_be_read_has_a_code_of_its_own(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, problem = _problem(capfd, "runs", "create")
        assert (code, problem["code"]) == (2, "invalid_input")
        assert "dataset" in problem["detail"]

    def test_whoever_stops_following_a_run_is_told_how_to_go_on(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("patina.commands.runs.follow", interrupted)
        assert main(["runs", "watch", "run_7"]) != 0
        shown = " ".join(capfd.readouterr().err.split())
        assert "patina runs watch run_7" in shown
        assert "patina runs cancel run_7" in shown

    def test_what_nobody_foresaw_shows_a_reference_and_no_trace(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr("patina.commands.runs.connect", broken)
        assert main(["runs", "ls"]) == 1
        shown = capfd.readouterr().err
        assert "secret detail" not in shown
        reported = re.search(r"\S*patina-[0-9a-f]{8}\.log", shown.replace("\n", "").replace("│", "").replace(" ", ""))
        assert reported is not None

    def test_wrong_settings_are_named(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATINA_PORT", "none")
        code, problem = _problem(capfd, "bases", "ls")
        assert code == 1
        assert [e["pointer"] for e in problem["errors"]] == ["/PATINA_PORT"]

    @pytest.mark.parametrize(
        ("arguments", "failure"),
        [
            (["bases", "add", "no/such/folder", "--name", "x"], FailureCode.BASE_UNREADABLE),
            (["bases", "add", "gone.safetensors", "--name", "x"], FailureCode.BASE_UNREADABLE),
            (["bases", "add", ".", "--name", "Not A Name"], FailureCode.INVALID_INPUT),
            (["datasets", "upload", "no-such-folder", "--name", "x"], FailureCode.NOT_FOUND),
            (["datasets", "upload", ".", "--name", "x"], FailureCode.EMPTY_DATASET),
        ],
    )
    def test_what_is_not_there_is_said_before_any_work(
        self, arguments: list[str], failure: FailureCode, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code, problem = _problem(capfd, *arguments)
        assert (code, problem["code"]) == (1, failure)


class TestRuns:
    def test_shows_where_the_whole_models_are_that_a_full_fine_tune_has_left(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nothing = dict.fromkeys(["explanation", "failure", "tracking"])
        run = nothing | {
            "id": "run_7", "name": "mine-1", "status": "succeeded", "step": 4, "steps": 4, "datasets": [],
            "base": {"name": "emoji-xl"}, "recipe": "demo", "overrides": {}, "config": {"output_name": "mine"},
            "outcome": {"exports": ["exports/mine.safetensors", "exports/mine"]},
        }  # fmt: skip
        monkeypatch.setattr("patina.client.Client.run", lambda *_: run)
        assert main(["runs", "show", "run_7"]) == 0
        shown = " ".join(capfd.readouterr().out.split())
        assert "exports exports/mine.safetensors, exports/mine (in PATINA_HOME/runs/run_7 where" in shown


class TestHelp:
    def test_it_names_every_verb(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        shown = capfd.readouterr().out
        for verb in ("up", "demo", "doctor", "bases", "datasets", "runs", "weights", "generate", "keys"):
            assert re.search(rf"^  {verb} ", shown, re.MULTILINE)


class TestKeys:
    def test_a_key_is_shown_once_and_listed_without_its_secret(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["keys", "create", "laptop", "--json"]) == 0
        made = json.loads(capfd.readouterr().out)
        assert made["key"].startswith("patina_")
        assert main(["keys", "ls", "--json"]) == 0
        listed = capfd.readouterr().out
        assert [key["name"] for key in json.loads(listed)["items"]] == ["laptop"]
        assert made["key"] not in listed


class TestDoctor:
    def test_a_key_of_any_owner_is_listed_and_ended(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["keys", "create", "phone", "--owner", "bob", "--json"]) == 0
        made = json.loads(capfd.readouterr().out)
        assert main(["keys", "rm", made["id"], "--json"]) == 0
        capfd.readouterr()
        assert main(["keys", "ls", "--json"]) == 0
        (listed,) = json.loads(capfd.readouterr().out)["items"]
        assert (listed["id"], listed["owner"], listed["revoked_at"] is None) == (made["id"], "bob", False)
        assert _problem(capfd, "keys", "rm", "nokey")[1]["code"] == "not_found"

    def test_it_finds_this_machine_in_order_without_a_server(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "--json"]) == 0
        document = json.loads(capfd.readouterr().out)
        states = {finding["what"]: finding["state"] for finding in document["findings"]}
        assert document["healthy"] is True
        assert (states["broker"], states["home"], states["server"]) == ("ok", "ok", "note")
