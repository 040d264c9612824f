"""The tus protocol over HTTP: offsets, checksums, limits, owners, and one file in the ledger at the end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from api import resumable
from api.app import create_app
from api.deps import Parts
from api.settings import ApiSettings
from api.tus import BODY_TYPE
from catalog.datasets import service as datasets
from catalog.uploads.models import Upload
from tests.databases import new_home

Headers = Callable[[str], dict[str, str]]
TUS = {"Tus-Resumable": "1.0.0"}
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def dataset(client: TestClient) -> str:
    identifier: str = client.post("/api/v1/datasets", json={"name": "style"}).json()["id"]
    return identifier


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Servers with settings of their own."""
    opened: list[TestClient] = []

    def make(**settings: Any) -> TestClient:
        home = new_home(tmp_path / f"limited-{len(opened)}")
        app = create_app(ApiSettings(home=home, **settings))
        client = TestClient(app, base_url="http://localhost:8470", client=("127.0.0.1", 1))
        client.post("/api/v1/datasets", json={"name": "style"})
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


def encoded(**pairs: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())


def begin(client: TestClient, length: int = len(CONTENT), headers: Any = None, **metadata: str) -> Any:
    said = encoded(**{"dataset": "style", "filename": "sub/cat.png"} | metadata)
    sent = {**TUS, "Upload-Length": str(length), "Upload-Metadata": said, **(headers or {})}
    return client.post("/api/v1/uploads", headers=sent)


def patch(client: TestClient, url: str, offset: int, content: bytes, **headers: str) -> Any:
    sent = {**TUS, "Upload-Offset": str(offset), "Content-Type": BODY_TYPE, **headers}
    return client.patch(url, headers=sent, content=content)


def offset_of(client: TestClient, url: str) -> int:
    answer = client.head(url, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def ledger(client: TestClient) -> list[Any]:
    rows: list[Any] = client.get("/api/v1/datasets/style/ledger").json()["items"]
    return rows


def checksum(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


@pytest.mark.usefixtures("dataset")
class TestUpload:
    def test_in_two_requests_becomes_one_pending_file_of_the_ledger(self, client: TestClient, parts: Parts) -> None:
        made = begin(client, sha256=hashlib.sha256(CONTENT).hexdigest())
        assert made.status_code == 201
        url = made.headers["location"]
        first = patch(client, url, 0, CONTENT[:100])
        assert (first.status_code, first.headers["upload-offset"]) == (204, "100")
        assert ledger(client) == []
        assert patch(client, url, 100, CONTENT[100:]).status_code == 204
        (row,) = ledger(client)
        assert (row["name"], row["kind"], row["bytes"], row["fate"]) == (
            "sub/cat.png",
            "image",
            len(CONTENT),
            "pending",
        )

    def test_repeating_the_last_request_offers_nothing_twice(self, client: TestClient) -> None:
        url = begin(client).headers["location"]
        assert patch(client, url, 0, CONTENT).status_code == 204
        again = patch(client, url, 0, CONTENT)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert offset_of(client, url) == len(CONTENT)
        assert patch(client, url, len(CONTENT), b"").status_code == 204
        assert len(ledger(client)) == 1

    def test_says_how_far_it_is_and_that_no_cache_may_keep_it(self, client: TestClient) -> None:
        made = begin(client)
        patch(client, made.headers["location"], 0, CONTENT[:7])
        said = client.head(made.headers["location"], headers=TUS).headers
        assert (said["upload-offset"], said["upload-length"]) == ("7", str(len(CONTENT)))
        assert (said["cache-control"], said["tus-resumable"]) == ("no-store", "1.0.0")
        assert said["upload-metadata"] == encoded(dataset="style", filename="sub/cat.png")
        assert said["upload-expires"].endswith("GMT")

    def test_pieces_of_a_long_body_lie_end_to_end(
        self, client: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resumable, "PIECE_BYTES", 1000)
        url = begin(client, sha256=hashlib.sha256(CONTENT).hexdigest()).headers["location"]

        def in_chunks() -> Iterator[bytes]:
            for start in range(0, len(CONTENT), 300):
                yield CONTENT[start : start + 300]

        assert patch(client, url, 0, in_chunks()).status_code == 204  # type: ignore[arg-type]
        assert [row["bytes"] for row in ledger(client)] == [len(CONTENT)]
        left = [path for path in parts.settings.folder.rglob("pieces/**/*") if path.is_file()]
        assert left == []

    def test_loses_nothing_when_the_database_is_cut_off_after_a_commit(
        self, client: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = begin(client, sha256=hashlib.sha256(CONTENT).hexdigest()).headers["location"]
        commits = parts.database.session

        @contextlib.contextmanager
        def cut_off() -> Iterator[Any]:
            with commits() as session:
                yield session
            raise OSError("the connection is gone, and the answer to COMMIT with it")

        with monkeypatch.context() as patched:
            patched.setattr(parts.database, "session", cut_off)
            for start, end in ((0, 100), (100, len(CONTENT))):
                assert patch(client, url, start, CONTENT[start:end]).status_code == 500
                assert offset_of(client, url) == end
            sent = client.post("/api/v1/datasets/style/files", files=[("files", ("b.png", CONTENT))])
            assert sent.status_code == 500
        with parts.database.reading() as session:
            rows = datasets.ledger(session, "local", "style")
            assert [parts.blobs.get_bytes(row.blob_key or "") for row in rows] == [CONTENT, CONTENT]

    def test_of_no_byte_at_all_is_a_file_at_once(self, client: TestClient) -> None:
        url = begin(client, length=0).headers["location"]
        assert offset_of(client, url) == 0
        assert [row["bytes"] for row in ledger(client)] == [0]

    def test_is_listed_until_its_last_byte(self, client: TestClient) -> None:
        url = begin(client).headers["location"]
        patch(client, url, 0, CONTENT[:9])
        (waiting,) = client.get("/api/v1/uploads?dataset=style").json()
        assert (waiting["url"], waiting["name"], waiting["offset"]) == (url, "sub/cat.png", 9)
        patch(client, url, 9, CONTENT[9:])
        assert client.get("/api/v1/uploads?dataset=style").json() == []

    def test_may_be_sent_by_post_where_patch_and_delete_are_not_possible(self, client: TestClient) -> None:
        url = begin(client).headers["location"]
        sent = {**TUS, "Upload-Offset": "0", "Content-Type": BODY_TYPE, "X-HTTP-Method-Override": "PATCH"}
        assert client.post(url, headers=sent, content=b"abc").status_code == 204
        assert client.post(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
        assert client.head(url, headers=TUS).status_code == 404

    def test_no_get_is_ever_taken_for_a_write(self, client: TestClient) -> None:
        url = begin(client).headers["location"]
        client.get(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"})
        assert offset_of(client, url) == 0


@pytest.mark.usefixtures("dataset")
class TestChecksum:
    @pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
    def test_bytes_that_fit_count(self, client: TestClient, algorithm: str) -> None:
        url = begin(client).headers["location"]
        fits = {"Upload-Checksum": checksum(CONTENT[:50], algorithm)}
        assert patch(client, url, 0, CONTENT[:50], **fits).status_code == 204
        assert offset_of(client, url) == 50

    def test_bytes_that_do_not_fit_count_nothing_and_can_be_sent_again(
        self, client: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resumable, "PIECE_BYTES", 1000)
        url = begin(client).headers["location"]
        wrong = patch(client, url, 0, CONTENT, **{"Upload-Checksum": checksum(b"other")})
        assert (wrong.status_code, wrong.json()["code"]) == (460, "checksum_mismatch")
        assert (offset_of(client, url), ledger(client)) == (0, [])
        assert [path for path in parts.settings.folder.rglob("pieces/**/*") if path.is_file()] == []
        assert patch(client, url, 0, CONTENT, **{"Upload-Checksum": checksum(CONTENT)}).status_code == 204
        assert len(ledger(client)) == 1

    def test_a_whole_that_is_not_the_announced_one_is_no_file(self, client: TestClient) -> None:
        url = begin(client, sha256="0" * 64).headers["location"]
        assert patch(client, url, 0, CONTENT).status_code == 460
        assert (client.head(url, headers=TUS).status_code, ledger(client)) == (404, [])

    @pytest.mark.parametrize("value", ["md5 AAAA", "sha256 ???", "sha256"])
    def test_what_cannot_be_checked_is_refused(self, client: TestClient, value: str) -> None:
        url = begin(client).headers["location"]
        answer = patch(client, url, 0, b"abc", **{"Upload-Checksum": value})
        assert answer.status_code in (400, 460)
        assert offset_of(client, url) == 0


@pytest.mark.usefixtures("dataset")
class TestRefusals:
    def test_a_client_of_another_version_is_told_ours(self, client: TestClient) -> None:
        answer = begin(client, headers={"Tus-Resumable": "0.2.2"})
        assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Upload-Length": "ten"},
            {"Upload-Length": "-1"},
            {"Upload-Metadata": ""},
            {"Upload-Metadata": "filename !!!"},
            {"Upload-Metadata": encoded(filename="a.png")},
            {"Upload-Metadata": encoded(filename="a.png", dataset="style", sha256="12")},
            {"Upload-Metadata": encoded(filename="a.png", dataset="sty\0le")},
        ],
    )
    def test_headers_that_cannot_be_read(self, client: TestClient, headers: dict[str, str]) -> None:
        answer = begin(client, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_upload_headers")

    @pytest.mark.parametrize("name", ["Upload-Metadata", "Upload-Checksum"])
    def test_headers_in_no_alphabet_of_theirs(self, client: TestClient, name: str) -> None:
        url = begin(client).headers["location"]
        headers = {**TUS, "Upload-Length": "3", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        sent = {key.encode(): value.encode() for key, value in headers.items()} | {name.encode(): "sha256 é".encode()}
        ask = client.post if name == "Upload-Metadata" else client.patch
        answer = ask("/api/v1/uploads" if name == "Upload-Metadata" else url, headers=list(sent.items()), content=b"")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_upload_headers")

    def test_a_body_of_another_type(self, client: TestClient) -> None:
        url = begin(client).headers["location"]
        answer = patch(client, url, 0, b"abc", **{"Content-Type": "text/plain"})
        assert answer.status_code == 415

    def test_a_page_of_another_site(self, client: TestClient) -> None:
        assert begin(client, headers={"Origin": "https://evil.example"}).status_code == 403

    def test_more_bytes_than_were_announced(self, client: TestClient) -> None:
        url = begin(client, length=5).headers["location"]
        assert patch(client, url, 0, b"abcdefgh").status_code == 413
        assert (offset_of(client, url), ledger(client)) == (0, [])

    def test_a_name_nothing_could_be_made_of_before_its_bytes_travel(self, client: TestClient) -> None:
        assert begin(client, filename="tool.exe").status_code == 422
        assert [(row["name"], row["fate"]) for row in ledger(client)] == [("tool.exe", "rejected")]

    def test_a_name_no_database_would_keep(self, client: TestClient) -> None:
        assert begin(client, filename="to\0ol.exe").status_code == 422
        (row,) = ledger(client)
        assert (row["name"], row["reason"].startswith("tool.exe is not taken")) == ("tool.exe", True)

    def test_a_dataset_that_is_not_there(self, client: TestClient) -> None:
        assert begin(client, dataset="nothing").status_code == 404

    def test_a_file_over_the_limit_names_the_setting(self, limited: Callable[..., TestClient]) -> None:
        client = limited(max_file_bytes=1000)
        assert client.options("/api/v1/uploads").headers["tus-max-size"] == "1000"
        answer = begin(client, length=1001)
        assert (answer.status_code, "PATINA_MAX_FILE_BYTES" in answer.json()["hint"]) == (413, True)
        assert [(row["name"], row["fate"]) for row in ledger(client)] == [("sub/cat.png", "rejected")]

    def test_a_disk_without_room_before_anything_is_written(self, limited: Callable[..., TestClient]) -> None:
        client = limited(disk_reserve_bytes=1 << 60)
        answer = begin(client)
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        assert "PATINA_DISK_RESERVE_BYTES" in answer.json()["hint"]
        assert client.get("/api/v1/uploads?dataset=style").json() == []


@pytest.mark.usefixtures("dataset")
class TestOwners:
    def test_another_owner_finds_nothing(self, client: TestClient, as_owner: Headers) -> None:
        url, eve = begin(client).headers["location"], as_owner("eve")
        assert client.head(url, headers={**TUS, **eve}).status_code == 404
        assert patch(client, url, 0, b"abc", **eve).status_code == 404
        assert client.delete(url, headers={**TUS, **eve}).status_code == 404
        assert client.get("/api/v1/uploads?dataset=style", headers=eve).status_code == 404
        assert begin(client, headers=eve).status_code == 404
        assert offset_of(client, url) == 0

    def test_what_one_owner_sent_is_no_news_to_another(self, client: TestClient, as_owner: Headers) -> None:
        patch(client, begin(client).headers["location"], 0, CONTENT)
        eve = as_owner("eve")
        client.post("/api/v1/datasets", json={"name": "hers"}, headers=eve)
        asked = {"files": [{"name": "sub/cat.png", "sha256": hashlib.sha256(CONTENT).hexdigest()}]}
        mine = client.post("/api/v1/datasets/style/received-files", json=asked)
        assert mine.json() == {"received": [True]}
        hers = client.post("/api/v1/datasets/hers/received-files", json=asked, headers=eve)
        assert hers.json() == {"received": [False]}
        assert client.post("/api/v1/datasets/style/received-files", json=asked, headers=eve).status_code == 404


@pytest.mark.usefixtures("dataset")
class TestEnd:
    def test_an_upload_given_up_leaves_nothing(self, client: TestClient, parts: Parts) -> None:
        url = begin(client).headers["location"]
        patch(client, url, 0, CONTENT[:50])
        assert client.delete(url, headers=TUS).status_code == 204
        assert (client.head(url, headers=TUS).status_code, ledger(client)) == (404, [])
        assert [path for path in parts.settings.folder.rglob("pieces/**/*") if path.is_file()] == []

    def test_an_expired_upload_is_not_there(self, client: TestClient, parts: Parts) -> None:
        url = begin(client).headers["location"]
        with parts.database.session() as session:
            session.execute(update(Upload).values(expires_at=1.0))
        assert client.head(url, headers=TUS).status_code == 404
        assert patch(client, url, 0, b"abc").status_code == 404


class TestMultipartFilesAreKnownToo:
    def test_and_need_not_be_sent_again(self, client: TestClient, dataset: str) -> None:
        client.post(f"/api/v1/datasets/{dataset}/files", files=[("files", ("a.png", CONTENT))])
        asked = {"files": [{"name": "a.png", "sha256": hashlib.sha256(CONTENT).hexdigest()}]}
        answer = client.post(f"/api/v1/datasets/{dataset}/received-files", json=asked)
        assert answer.json() == {"received": [True]}


class TestTheSameRefusedFileAgain:
    def test_has_one_row_however_it_is_sent(self, client: TestClient, dataset: str) -> None:
        for _ in range(2):
            begin(client, filename="tool.exe", sha256=hashlib.sha256(CONTENT).hexdigest())
            refused = client.post(f"/api/v1/datasets/{dataset}/files", files=[("files", ("tool.exe", CONTENT))])
            assert refused.status_code == 422
        assert [(row["name"], row["fate"]) for row in ledger(client)] == [("tool.exe", "rejected")]

    def test_another_one_of_its_name_has_its_own(self, client: TestClient, dataset: str) -> None:
        for content in (CONTENT, b"other"):
            client.post(f"/api/v1/datasets/{dataset}/files", files=[("files", ("tool.exe", content))])
        assert len(ledger(client)) == 2


class TestLimitsOfADataset:
    def test_bytes_count_what_was_sent_and_what_is_announced_and_name_the_setting(
        self, limited: Callable[..., TestClient]
    ) -> None:
        client = limited(max_dataset_bytes=1000)
        sent = client.post("/api/v1/datasets/style/files", files=[("files", ("a.png", b"x" * 400))])
        assert sent.status_code == 202
        assert begin(client, length=500).status_code == 201
        over = begin(client, length=200)
        assert (over.status_code, "PATINA_MAX_DATASET_BYTES" in over.json()["hint"]) == (413, True)
        refused = client.post("/api/v1/datasets/style/files", files=[("files", ("b.png", b"x" * 101))])
        assert refused.status_code == 413
        rows = ledger(client)
        assert [row["fate"] for row in rows] == ["pending", "rejected", "rejected"]
        assert all("(PATINA_MAX_DATASET_BYTES)" in row["reason"] for row in rows[1:])

    def test_images_are_counted_one_by_one(self, limited: Callable[..., TestClient]) -> None:
        client = limited(max_dataset_images=2)
        files = [("files", (f"{n}.png", b"%d" % n)) for n in range(3)] + [("files", ("a.txt", b"words"))]
        answer = client.post("/api/v1/datasets/style/files", files=files).json()
        assert [file["accepted"] for file in answer["files"]] == [True, True, False, True]
        assert "PATINA_MAX_DATASET_IMAGES" in answer["files"][2]["problem"]["hint"]
        assert ledger(client)[2]["reason"] == "2.png would take the dataset over 2 images (PATINA_MAX_DATASET_IMAGES)."

    def test_a_file_that_is_too_large_is_named_with_the_setting(self, limited: Callable[..., TestClient]) -> None:
        client = limited(max_file_bytes=10)
        assert begin(client, length=11).status_code == 413
        client.post("/api/v1/datasets/style/files", files=[("files", ("a.png", b"x" * 11))])
        for row in ledger(client):
            assert row["reason"] == f"{row['name']} is over 10 bytes (PATINA_MAX_FILE_BYTES)."
        assert begin(client).status_code == 413

    def test_a_disk_without_room_refuses_files_of_one_request_too(
        self, limited: Callable[..., TestClient], tmp_path: Path
    ) -> None:
        client = limited(disk_reserve_bytes=1 << 60)
        answer = client.post("/api/v1/datasets/style/files", files=[("files", ("a.png", b"x"))])
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        assert (ledger(client), list(tmp_path.rglob("upload-*"))) == ([], [])
