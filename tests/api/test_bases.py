"""Bases and recipes over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from catalog.bases.models import Base
from catalog.bases.service import description_of
from contracts.failures import PatinaError


class TestBases:
    def test_a_base_is_described_and_its_place_is_not_told(self, client: TestClient, make: Any) -> None:
        make.base()
        answer = client.get("/api/v1/bases/emoji")
        assert answer.status_code == 200
        base = answer.json()
        assert (base["family"], base["modality"], base["native_px"], base["licence"]) == ("sdxl", "image", 64, "MIT")
        assert base["identity"] == "a" * 64
        assert "/secret" not in answer.text
        assert client.get("/api/v1/bases").json()["items"] == [base]

    def test_one_that_an_older_version_described_is_still_shown_and_says_how_to_be_used_again(
        self, client: TestClient, make: Any
    ) -> None:
        make.base()
        with make.parts.database.session() as session:
            base = session.scalars(select(Base)).one()
            base.description = {**base.description, "profile": {"unet_parameters": 11}}
        answer = client.get("/api/v1/bases/emoji")
        assert (answer.status_code, answer.json()["parameters"]) == (200, 11)
        with make.parts.database.reading() as session, pytest.raises(PatinaError) as caught:
            description_of(session.scalars(select(Base)).one())
        assert "patina bases add" in (caught.value.hint or "")

    def test_an_unknown_base_is_not_found_and_the_known_are_named(self, client: TestClient, make: Any) -> None:
        make.base()
        answer = client.get("/api/v1/bases/none")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "emoji" in answer.json()["detail"]

    def test_no_base_is_added_over_http(self, client: TestClient) -> None:
        answer = client.post("/api/v1/bases", json={"name": "x", "source": "/etc"})
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


class TestRecipes:
    def test_recipes_come_with_every_setting_but_no_path(self, client: TestClient) -> None:
        quick, wide = client.get("/api/v1/recipes").json()["items"]
        assert (quick["name"], quick["summary"], quick["config"]["steps"]) == ("quick", "A short run.", 20)
        assert "paths" not in quick["values"]
        assert wide["config"]["lora"]["rank"] == 32

    def test_a_file_that_cannot_be_used_hides_no_other(self, client: TestClient, make: Any) -> None:
        (make.parts.settings.recipes / "odd.yaml").write_text("stepps: 4\n")
        (make.parts.settings.recipes / "torn.yaml").write_text("steps: [\n")
        found = {one["name"]: one["config"] for one in client.get("/api/v1/recipes").json()["items"]}
        assert set(found) == {"odd", "quick", "wide"}
        assert found["odd"] is None
