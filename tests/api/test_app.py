"""Starting: what is loaded, what is refused, and what the API says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from api.app import create_app, from_environment
from api.deps import Parts
from api.errors import MEDIA_TYPE
from api.settings import ApiSettings
from catalog.db import Database
from catalog.keys import service as keys
from contracts.failures import FailureCode, PatinaError

HEAVY = ("pyarrow", "PIL", "datasets", "s3fs", "torch", "diffusers", "transformers", "peft", "accelerate")
ROOT = Path(__file__).resolve().parents[2]


class TestImport:
    def test_the_process_starts_without_what_only_workers_need(self) -> None:
        code = f"import sys, api.app; print([m for m in {HEAVY!r} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestDoors:
    """The whole application, so that no layer can be left out of it (tests/api/test_access.py has every case)."""

    @pytest.mark.parametrize("path", ["/api/v1/datasets", "/api/v1/runs", "/healthz", "/docs", "/openapi.json"])
    def test_a_foreign_host_name_reads_nothing(self, client: TestClient, path: str) -> None:
        assert client.get(path, headers={"host": "evil.example"}).json()["code"] == "forbidden_origin"

    @pytest.mark.parametrize("path", ["/api/v1/datasets", "/api/v1/runs/run_0/cancel", "/api/v1/datasets/d/files"])
    def test_a_foreign_page_writes_nothing(self, client: TestClient, path: str) -> None:
        answer = client.post(path, headers={"origin": "https://evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_origin")

    def test_what_a_form_can_send_is_not_read_as_json(self, client: TestClient) -> None:
        answer = client.post("/api/v1/datasets", content=b'{"name": "x"}', headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert client.get("/api/v1/datasets").json()["items"] == []


class TestRefusals:
    def test_a_server_open_to_the_network_needs_a_key_to_exist(self, tmp_path: Path) -> None:
        settings = ApiSettings(home=tmp_path, host="0.0.0.0")
        with pytest.raises(PatinaError) as refused:
            create_app(settings)
        assert refused.value.code is FailureCode.UNAUTHENTICATED
        assert "patina keys create" in refused.value.hint
        with Database(settings.database).session() as session:
            text = keys.create(session, "anna", "laptop").text
        client = TestClient(create_app(settings), client=("203.0.113.9", 1))
        assert client.get("/api/v1/runs").status_code == 401
        assert client.get("/api/v1/runs", headers={"authorization": f"Bearer {text}"}).status_code == 200

    def test_a_revoked_key_opens_nothing(self, tmp_path: Path) -> None:
        settings = ApiSettings(home=tmp_path)
        client = TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 1))
        database = Database(settings.database)
        with database.session() as session:
            made = keys.create(session, "anna", "laptop")
        headers = {"authorization": f"Bearer {made.text}"}
        assert client.get("/api/v1/runs", headers=headers).status_code == 200
        with database.session() as session:
            keys.revoke(session, "anna", made.key.id)
        assert client.get("/api/v1/runs", headers=headers).status_code == 401

    def test_a_home_that_is_a_file_is_told_in_one_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "home").write_text("")
        monkeypatch.setenv("PATINA_HOME", str(tmp_path / "home"))
        with pytest.raises(SystemExit) as ended:
            from_environment()
        assert "cannot be written" in str(ended.value)

    def test_a_setting_that_cannot_be_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATINA_HOME", str(tmp_path))
        monkeypatch.setenv("PATINA_MAX_WAIT_S", "forever")
        with pytest.raises(SystemExit) as ended:
            from_environment()
        assert "PATINA_MAX_WAIT_S" in str(ended.value)


class TestTwoApplications:
    def test_of_one_process_each_answer_from_their_own_home(self, tmp_path: Path) -> None:
        applications = [create_app(ApiSettings(home=tmp_path / name)) for name in ("one", "other")]
        one, other = (TestClient(a, base_url="http://localhost", client=("127.0.0.1", 1)) for a in applications)
        assert one.post("/api/v1/datasets", json={"name": "style"}).status_code == 201
        assert [found["name"] for found in one.get("/api/v1/datasets").json()["items"]] == ["style"]
        assert other.get("/api/v1/datasets").json()["items"] == []


class TestBusyDatabase:
    def test_is_told_as_that_with_when_to_come_again_and_the_same_request_then_succeeds(
        self, client: TestClient, parts: Parts
    ) -> None:
        event.listen(parts.database.engine, "checkout", lambda raw, *_: raw.execute("PRAGMA busy_timeout=0"))
        with parts.database.session() as session:
            session.connection()  # from here on nobody else can write
            answer = client.post("/api/v1/datasets", json={"name": "style"})
        assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")
        assert int(answer.headers["retry-after"]) > 0
        assert "reference" not in answer.json()
        assert client.post("/api/v1/datasets", json={"name": "style"}).status_code == 201


class TestDescription:
    @pytest.fixture
    def described(self, client: TestClient) -> dict[str, Any]:
        document: dict[str, Any] = client.get("/openapi.json").json()
        return document

    def test_the_address_alone_leads_to_a_page_made_of_this_server_s_own_files(self, client: TestClient) -> None:
        page = client.get("/")
        assert page.is_success
        files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(files) >= 3
        for file in files:
            assert client.get(file).is_success, file
        assert "//" not in "".join(files)

    def test_every_route_has_a_summary_and_tells_its_problems(self, described: dict[str, Any]) -> None:
        routes = [
            (path, operation)
            for path, methods in described["paths"].items()
            if path.startswith("/api/")
            for operation in methods.values()
        ]
        assert len(routes) > 20
        for path, operation in routes:
            assert operation["summary"], path
            for status in ("401", "403", "422", "500"):
                assert MEDIA_TYPE in operation["responses"][status]["content"], (path, status)
            if "{" in path:
                assert "404" in operation["responses"], path

    def test_every_answer_has_a_shape(self, described: dict[str, Any]) -> None:
        schemas = described["components"]["schemas"]
        assert {"Problem", "RunDetail", "DatasetOut", "GenerationOut", "WeightsOut", "BaseOut"} <= set(schemas)
        assert schemas["Problem"]["required"]
        assert "HTTPValidationError" not in schemas

    def test_no_field_of_a_request_is_a_path_or_address(self, described: dict[str, Any]) -> None:
        suspicious = ("path", "dir", "url", "repo", "folder")
        for name in ("RunRequest", "GenerationRequest", "DatasetIn", "FreezeIn"):
            fields = described["components"]["schemas"][name]["properties"]
            assert [field for field in fields if any(word in field for word in suspicious)] == []
