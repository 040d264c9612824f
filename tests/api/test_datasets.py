"""Datasets over HTTP: uploads judged file by file, a ledger that tells all, versions by content."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.deps import Parts
from catalog import jobs
from catalog.datasets import ingest

Headers = Callable[[str], dict[str, str]]


def upload(client: TestClient, dataset: str, *named: tuple[str, bytes], headers: Any = None) -> Any:
    sent = [("files", (name, content, "application/octet-stream")) for name, content in named]
    return client.post(f"/api/v1/datasets/{dataset}/files", files=sent, headers=headers)


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"pixels")
    return buffer.getvalue()


@pytest.fixture
def dataset(client: TestClient) -> str:
    identifier: str = client.post("/api/v1/datasets", json={"name": "style"}).json()["id"]
    return identifier


class TestCreate:
    def test_a_new_dataset_is_empty_and_can_be_read_by_id_and_name(self, client: TestClient) -> None:
        made = client.post("/api/v1/datasets", json={"name": "style"})
        assert made.status_code == 201
        assert made.headers["location"] == f"/api/v1/datasets/{made.json()['id']}"
        assert made.json()["status"] == "empty"
        assert client.get("/api/v1/datasets/style").json() == made.json()
        assert client.get(made.headers["location"]).json() == made.json()

    def test_a_name_is_taken_once(self, client: TestClient, dataset: str) -> None:
        answer = client.post("/api/v1/datasets", json={"name": "style"})
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")

    @pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "Two Words"}, {"name": "a", "owner": "root"}])
    def test_a_wrong_body_names_the_field(self, client: TestClient, body: dict[str, str]) -> None:
        answer = client.post("/api/v1/datasets", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] in {"/name", "/owner"}


class TestOwners:
    def test_another_owner_sees_nothing(self, client: TestClient, dataset: str, as_owner: Headers) -> None:
        other = as_owner("berta")
        assert client.get("/api/v1/datasets", headers=other).json()["items"] == []
        for path in (dataset, "style", f"{dataset}/ledger", f"{dataset}/versions"):
            assert client.get(f"/api/v1/datasets/{path}", headers=other).status_code == 404
        assert client.post(f"/api/v1/datasets/{dataset}/versions", headers=other).status_code == 404
        assert upload(client, dataset, ("a.png", b"x"), headers=other).status_code == 404

    def test_two_owners_may_use_one_name(self, client: TestClient, dataset: str, as_owner: Headers) -> None:
        answer = client.post("/api/v1/datasets", json={"name": "style"}, headers=as_owner("berta"))
        assert answer.status_code == 201
        assert answer.json()["id"] != dataset


class TestUpload:
    def test_good_files_are_stored_and_wait_to_be_read(self, client: TestClient, dataset: str, parts: Parts) -> None:
        answer = upload(client, dataset, ("set/a.png", b"pixels"), ("set/a.txt", b"a cat"), ("more.zip", a_zip()))
        assert answer.status_code == 202
        assert (answer.json()["accepted"], answer.json()["refused"]) == (3, 0)
        read = client.get(f"/api/v1/datasets/{dataset}").json()
        assert (read["status"], read["pending_files"]) == ("ingesting", 3)
        with parts.database.session() as session:
            (claim,) = jobs.claim(session, "light", "test-worker", 60)
            rows = ingest.pending_files(session, claim)
            assert [parts.blobs.get_bytes(row.blob_key or "") for row in rows[:2]] == [b"pixels", b"a cat"]

    def test_one_bad_file_costs_only_itself(self, client: TestClient, dataset: str) -> None:
        answer = upload(client, dataset, ("a.png", b"x"), ("b.zip", b"not a zip"), ("c.exe", b"MZ"), ("d.txt", b"d"))
        assert answer.status_code == 202
        told = {one["name"]: one["problem"] and one["problem"]["code"] for one in answer.json()["files"]}
        assert told == {"a.png": None, "b.zip": "not_a_zip", "c.exe": "invalid_input", "d.txt": None}
        ledger = client.get(f"/api/v1/datasets/{dataset}/ledger").json()["items"]
        assert {row["name"]: row["fate"] for row in ledger} == {
            "a.png": "pending",
            "b.zip": "rejected",
            "c.exe": "rejected",
            "d.txt": "pending",
        }
        assert all(row["reason"] for row in ledger if row["fate"] == "rejected")

    def test_a_zip_that_says_it_goes_on_in_other_files_costs_only_itself(
        self, client: TestClient, dataset: str
    ) -> None:
        spanned = b"PK\x06\x07" + b"\xff" * 16 + b"PK\x05\x06" + b"\xff" * 18
        answer = upload(client, dataset, ("a.png", b"x"), ("b.zip", spanned))
        assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
        assert answer.json()["files"][1]["problem"]["code"] == "not_a_zip"

    def test_every_layout_is_let_in(self, client: TestClient, dataset: str) -> None:
        names = ("10_sks dog/a.avif", "a_mask.png", "a.caption", "metadata.csv", "metadata.parquet", "meta_cap.json")
        answer = upload(client, dataset, *((name, b"x") for name in (*names, "train.parquet")))
        assert (answer.json()["accepted"], answer.json()["refused"]) == (7, 0)
        ledger = client.get(f"/api/v1/datasets/{dataset}/ledger").json()["items"]
        kinds = ["image", "mask", "caption", "metadata", "metadata", "metadata", "table"]
        assert [row["kind"] for row in ledger] == kinds

    @pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.rar"])
    def test_another_archive_is_told_to_come_as_zip(self, client: TestClient, dataset: str, name: str) -> None:
        answer = upload(client, dataset, (name, b"x"))
        assert answer.status_code == 422
        assert "pack the files as a .zip" in answer.json()["errors"][0]["message"] + answer.json()["detail"]

    def test_nothing_but_a_bad_zip_is_a_problem(self, client: TestClient, dataset: str) -> None:
        answer = upload(client, dataset, ("b.zip", b"not a zip"))
        assert (answer.status_code, answer.json()["code"]) == (422, "not_a_zip")
        assert "b.zip" in answer.json()["detail"]

    def test_nothing_but_bad_files_lists_each(self, client: TestClient, dataset: str) -> None:
        answer = upload(client, dataset, ("b.zip", b"not a zip"), ("c.exe", b"MZ"))
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/files/0", "/files/1"]

    def test_a_file_over_the_limit_costs_only_itself(self, client: TestClient, dataset: str, parts: Parts) -> None:
        object.__setattr__(parts.settings, "max_file_bytes", 10)
        answer = upload(client, dataset, ("a.png", b"x"), ("b.png", b"x" * 11))
        assert answer.status_code == 202
        problem = answer.json()["files"][1]["problem"]
        assert problem["code"] == "too_large"
        assert "PATINA_MAX_FILE_BYTES" in problem["hint"]

    def test_an_unknown_dataset_is_told_before_the_body_is_read(self, client: TestClient) -> None:
        assert upload(client, "ds_none", ("a.png", b"x")).status_code == 404

    def test_text_is_refused(self, client: TestClient, dataset: str) -> None:
        answer = client.post(f"/api/v1/datasets/{dataset}/files", content=b"x", headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


class TestLedger:
    def test_it_is_read_in_parts_oldest_first(self, client: TestClient, dataset: str) -> None:
        upload(client, dataset, *[(f"{n}.png", b"x") for n in range(5)])
        names, cursor = [], None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            part = client.get(f"/api/v1/datasets/{dataset}/ledger", params=query).json()
            names += [row["name"] for row in part["items"]]
            cursor = part["next_cursor"]
            if cursor is None:
                break
        assert names == [f"{n}.png" for n in range(5)]

    def test_a_cursor_of_nobody_is_refused(self, client: TestClient, dataset: str) -> None:
        answer = client.get(f"/api/v1/datasets/{dataset}/ledger?cursor=-1")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/cursor")


class TestVersions:
    def test_unread_files_are_waited_for(self, client: TestClient, dataset: str) -> None:
        upload(client, dataset, ("a.png", b"x"))
        answer = client.post(f"/api/v1/datasets/{dataset}/versions")
        assert (answer.status_code, answer.json()["code"]) == (409, "unfinished_ingest")

    def test_an_empty_dataset_cannot_be_frozen(self, client: TestClient, dataset: str) -> None:
        answer = client.post(f"/api/v1/datasets/{dataset}/versions", json={"held_out_share": 0.1})
        assert (answer.status_code, answer.json()["code"]) == (409, "empty_dataset")

    def test_the_same_content_is_the_same_version(self, client: TestClient, dataset: str, make: Any) -> None:
        upload(client, dataset, *[(f"{n}.png", b"x") for n in range(4)])
        make.read_uploads()
        first = client.post(f"/api/v1/datasets/{dataset}/versions", json={"held_out_share": 0.25})
        again = client.post(f"/api/v1/datasets/{dataset}/versions", json={"held_out_share": 0.25})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        assert first.json()["train_images"] + first.json()["held_out_images"] == 4
        assert client.get(f"/api/v1/datasets/{dataset}/versions").json()["items"] == [first.json()]

    @pytest.mark.parametrize("share", [-0.1, 0.6, "much"])
    def test_a_share_out_of_range_is_refused(self, client: TestClient, dataset: str, share: object) -> None:
        answer = client.post(f"/api/v1/datasets/{dataset}/versions", json={"held_out_share": share})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/held_out_share")


class TestRemove:
    def test_a_dataset_is_gone_and_its_name_free_again(
        self, client: TestClient, dataset: str, as_owner: Headers
    ) -> None:
        upload(client, dataset, ("a.png", b"x"))
        assert client.delete(f"/api/v1/datasets/{dataset}", headers=as_owner("berta")).status_code == 404
        assert client.delete(f"/api/v1/datasets/{dataset}").status_code == 204
        assert client.get(f"/api/v1/datasets/{dataset}").status_code == 404
        assert client.post("/api/v1/datasets", json={"name": "style"}).status_code == 201

    def test_one_that_was_frozen_stays(self, client: TestClient, dataset: str, make: Any) -> None:
        upload(client, dataset, ("a.png", b"x"), ("b.png", b"y"))
        make.read_uploads()
        assert client.post(f"/api/v1/datasets/{dataset}/versions").status_code == 201
        refused = client.delete(f"/api/v1/datasets/{dataset}")
        assert (refused.status_code, "1 version came of it" in refused.json()["detail"]) == (409, True)
        assert client.get(f"/api/v1/datasets/{dataset}").json()["images"] == 2
