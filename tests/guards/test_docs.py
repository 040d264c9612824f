"""The documents name every failure code and every route, and say what the code says."""

from __future__ import annotations

from pathlib import Path

from api.app import create_app
from api.errors import STATUS
from api.settings import ApiSettings
from contracts.failures import FAILURES

DOCS = Path(__file__).resolve().parents[2] / "docs"


class TestErrors:
    def test_every_failure_is_listed_with_its_status_message_and_hint(self) -> None:
        lines = (DOCS / "errors.md").read_text(encoding="utf-8").splitlines()
        wanted = [f"| `{code}` | {STATUS[code]} | {text.message} | {text.hint} |" for code, text in FAILURES.items()]
        assert wanted
        assert [line for line in wanted if line not in lines] == []

    def test_no_failure_is_listed_that_there_is_not(self) -> None:
        rows = [row for row in (DOCS / "errors.md").read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
        assert len(rows) == len(FAILURES)


class TestRoutes:
    def test_every_route_is_described(self, tmp_path: Path) -> None:
        text = (DOCS / "api.md").read_text(encoding="utf-8")
        paths = create_app(ApiSettings(home=tmp_path)).openapi()["paths"]
        found = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
        assert len(found) > 20
        assert [route for route in found if f"`{route}`" not in text] == []


class TestSettings:
    def test_every_setting_of_the_api_is_described(self) -> None:
        text = (DOCS / "api.md").read_text(encoding="utf-8")
        names = [f"PATINA_{name.upper()}" for name in ApiSettings.model_fields]
        assert names
        assert [name for name in names if f"`{name}`" not in text] == []
