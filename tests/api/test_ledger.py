"""The ledger over HTTP: every file once, captions measured in tokens, and what nobody meant told before freezing."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import measures
from api.settings import ApiSettings
from catalog.bases.models import Base
from tests.api.test_captions import change
from tests.api.test_datasets import upload

HERE = "/api/v1/datasets/style"


def filled(client: TestClient, make: Any, *names: str) -> None:
    client.post("/api/v1/datasets", json={"name": "style"})
    upload(client, "style", *[(name, b"x") for name in names])
    make.read_uploads()


def rows(client: TestClient, query: str = "") -> dict[str, Any]:
    return {row["name"]: row for row in client.get(f"{HERE}/ledger{query}").json()["items"]}


class TestRows:
    def test_they_are_counted_and_picked_by_fate(self, client: TestClient, make: Any) -> None:
        filled(client, make, "0.png", "1.png", "0.txt", "lost.txt", "x.exe")
        told = client.get(f"{HERE}/ledger/summary").json()
        assert told["offered"] == 5 == told["used"] + told["duplicate"] + told["rejected"] + told["pending"]
        assert set(rows(client, "?fate=rejected")) == {"lost.txt", "x.exe"}
        assert told["images"] == 2
        assert "no caption" in rows(client)["1.png"]["reason"]

    def test_an_edited_caption_says_so(self, client: TestClient, make: Any) -> None:
        filled(client, make, "0.png", "0.txt")
        assert rows(client)["0.png"]["caption_source"] == "0.txt"
        change(client, 0, caption="mine")
        assert (rows(client)["0.png"]["caption"], rows(client)["0.png"]["caption_source"]) == ("mine", "edit")

    def test_tokens_are_counted_as_soon_as_there_is_a_vocabulary(self, tmp_path: Path) -> None:
        assert measures.count(tmp_path / "base", "a cat") is None
        shutil.copytree(ApiSettings().tokenizer, tmp_path / "base")
        assert measures.count(tmp_path / "base", "a cat") == (2, None)

    def test_tokens_are_counted_and_what_the_model_does_not_read_is_shown(self, client: TestClient, make: Any) -> None:
        filled(client, make, "0.png", "0.txt")
        assert (rows(client)["0.png"]["tokens"], rows(client)["0.png"]["cut_off"]) == (2, None)
        change(client, 0, caption="cat " * 75 + "dog bird")
        assert (rows(client)["0.png"]["tokens"], rows(client)["0.png"]["cut_off"]) == (77, "dog bird")

    def test_a_special_token_in_a_caption_is_text(self, client: TestClient, make: Any) -> None:
        filled(client, make, "0.png")
        assert change(client, 0, caption="a <|endoftext|> b").json()["caption"] == "a < |endoftext| > b"

    def test_bucket_crop_and_upscaling_at_a_resolution(self, client: TestClient, make: Any) -> None:
        filled(client, make, "0.png", "0.txt")
        placement = rows(client, "?resolution=128")["0.png"]["placement"]
        assert (placement["bucket"], placement["upscaling"]) == ("128x128", 2.0)
        assert rows(client, "?resolution=128")["0.txt"]["placement"] is None

    @pytest.mark.parametrize("native_px", [64, 1024])
    @pytest.mark.parametrize("resolution", [None, 264])
    def test_buckets_on_a_base_are_those_of_its_runs(
        self, client: TestClient, make: Any, native_px: int, resolution: int | None
    ) -> None:
        make.base(native_px=native_px)
        make.frozen(images=2)
        overrides = {} if resolution is None else {"data.resolution_px": resolution}
        request = {"dataset": "style", "base": "emoji", "recipe": "quick", "overrides": overrides}
        plan = client.post("/api/v1/runs?dry_run=true", json=request).json()
        query = "?base=emoji" + (f"&resolution={resolution}" if resolution else "")
        told = client.get(f"{HERE}/ledger{query}&format=csv").text
        shown = {row["bucket"] for row in csv.DictReader(io.StringIO(told))}
        assert {rows(client, query)["0.png"]["placement"]["bucket"]} == shown == set(plan["buckets"])

    @pytest.mark.parametrize("how", ["", "&format=csv"])
    def test_a_base_that_cannot_be_used_is_told_and_the_known_are_named(
        self, client: TestClient, make: Any, as_owner: Any, how: str
    ) -> None:
        make.base()
        filled(client, make, "0.png")
        answer = client.get(f"{HERE}/ledger?base=none{how}")
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_base")
        assert "emoji" in answer.json()["detail"]
        with make.parts.database.session() as session:
            session.add(Base(id="base_hers", owner="berta", name="hers", status="ready", source="/hers"))
        assert client.get(f"{HERE}/ledger?base=hers{how}").json()["code"] == "unknown_base"
        berta = client.get(f"{HERE}/ledger?base=emoji{how}", headers=as_owner("berta"))
        assert (berta.status_code, berta.json()["code"]) == (404, "not_found"), "the dataset is not hers"

    @pytest.mark.parametrize("how", [{"params": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}])
    def test_csv_is_all_of_it(self, client: TestClient, make: Any, how: dict[str, Any]) -> None:
        filled(client, make, "0.png", "0.txt", "x.exe")
        change(client, 0, caption='a "cat", red')
        answer = client.get(f"{HERE}/ledger", **how)
        assert answer.headers["content-type"].startswith("text/csv")
        read = list(csv.DictReader(io.StringIO(answer.text)))
        assert {(row["name"], row["fate"], row["caption"]) for row in read} == {
            ("0.png", "used", 'a "cat", red'),
            ("0.txt", "used", "a caption"),
            ("x.exe", "rejected", ""),
        }

    def test_no_cell_of_the_csv_is_a_formula(self, client: TestClient, make: Any) -> None:
        for sign in "=+-@":
            names = f"{sign}cmd()|' /C calc'!A0.png", f"{sign}2+3.exe"
            filled(client, make, *names)
            change(client, 0, caption=f"{sign}HYPERLINK(1)")
            told = [*csv.DictReader(io.StringIO(client.get(f"{HERE}/ledger?format=csv").text))]
            assert [row["name"] for row in told] == [f"'{name}" for name in names]
            assert told[0]["caption"] == f"'{sign}HYPERLINK(1)"
            assert rows(client)[names[0]]["caption"] == f"{sign}HYPERLINK(1)", "JSON says it as it is"
            client.delete(HERE)

    def test_another_owner_sees_none(self, client: TestClient, make: Any, as_owner: Any) -> None:
        filled(client, make, "0.png")
        for path in ("ledger", "ledger?format=csv", "ledger/summary"):
            assert client.get(f"{HERE}/{path}", headers=as_owner("berta")).status_code == 404


class TestDoubts:
    def test_nothing_is_doubtful_while_it_is_being_read(self, client: TestClient, make: Any) -> None:
        client.post("/api/v1/datasets", json={"name": "style"})
        upload(client, "style", *[(name, b"x") for name in ("0.png", "1.png", "0.txt")])
        make.read_uploads()
        upload(client, "style", ("1.txt", b"y"))
        assert client.get(f"{HERE}/ledger/summary").json()["warnings"] == []
        make.read_uploads()
        assert client.get(f"{HERE}/ledger/summary").json()["warnings"] == []

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (["0.png", "1.png", "0.txt", "1.txt", "x.txt", "y.txt"], "2 of 4 captions match no image: x.txt, y.txt"),
            (["0.png", "1.png", "0.txt"], "1 of 2 images have no caption, though captions were offered: 1.png"),
        ],
    )
    def test_freezing_refuses_with_the_list_unless_told_to_go_on(
        self, client: TestClient, make: Any, names: list[str], said: str
    ) -> None:
        filled(client, make, *names)
        refused = client.post(f"{HERE}/versions")
        assert (refused.status_code, refused.json()["code"]) == (409, "doubtful_dataset")
        assert said in refused.json()["detail"]
        (warning,) = client.get(f"{HERE}/ledger/summary").json()["warnings"]
        assert said == f"{warning['message']}: {', '.join(warning['names'])}"
        assert client.post(f"{HERE}/versions", json={"accept_warnings": True}).status_code == 201

    def test_a_few_slips_and_a_set_without_captions_are_no_doubt(self, client: TestClient, make: Any) -> None:
        filled(client, make, "0.png", "1.png", "2.png", "0.txt", "1.txt", "lost.txt")
        assert client.post(f"{HERE}/versions").status_code == 201
