"""Captions over HTTP: edited one by one and all at once, undone, and never lost to a second editor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.deps import Parts
from catalog.datasets import service
from catalog.datasets.ingest import MetadataLine, finish, pending_files, record_metadata
from tests.api.test_datasets import upload

HERE = "/api/v1/datasets/style"


@pytest.fixture
def dataset(client: TestClient, make: Any) -> str:
    """Three images, each with the sidecar's "a caption"."""
    client.post("/api/v1/datasets", json={"name": "style"})
    upload(client, "style", *[(f"{n}.png", b"x") for n in range(3)], *[(f"{n}.txt", b"x") for n in range(3)])
    make.read_uploads()
    return "style"


def captions(client: TestClient) -> dict[str, str | None]:
    return {one["name"]: one["caption"] for one in client.get(f"{HERE}/images").json()["items"]}


def tag(client: TestClient) -> str:
    return str(client.get(f"{HERE}/images").headers["etag"])


def edit(client: TestClient, query: str = "", if_match: str = "*", **body: Any) -> Any:
    return client.post(f"{HERE}/captions/edits{query}", json=body, headers={"If-Match": if_match})


def change(client: TestClient, number: int, if_match: str = "*", **body: Any) -> Any:
    return client.patch(f"{HERE}/images/{number:064x}", json=body, headers={"If-Match": if_match})


@pytest.mark.usefixtures("dataset")
class TestOne:
    def test_a_caption_of_ones_own_replaces_the_files_and_says_so(self, client: TestClient) -> None:
        answer = change(client, 1, caption="  my\tcat ")
        assert (answer.status_code, answer.json()["caption"], answer.json()["source"]) == (200, "my cat", "edit")
        assert captions(client) == {"0.png": "a caption", "1.png": "my cat", "2.png": "a caption"}
        back = change(client, 1, caption=None).json()
        assert (back["caption"], back["source"]) == ("a caption", "1.txt")

    def test_a_request_that_changes_nothing_is_told_so(self, client: TestClient) -> None:
        answer = change(client, 1, '"r999"')
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")

    def test_it_survives_files_that_come_later(self, client: TestClient, make: Any, parts: Parts) -> None:
        change(client, 1, caption="my cat")
        line = b'{"file_name": "1.png", "text": "their cat"}'
        upload(client, "style", ("metadata.jsonl", line))
        claim = make.claim("light")
        with parts.database.session() as session:
            (row,) = pending_files(session, claim)
            record_metadata(session, claim, row.id, [MetadataLine(1, "1.png", "their cat")])
            finish(session, claim)
        assert captions(client)["1.png"] == "my cat"
        assert change(client, 1, caption=None).json()["caption"] == "their cat"

    def test_a_second_editor_is_refused_and_the_first_ones_words_stay(self, client: TestClient) -> None:
        seen = tag(client)
        first = change(client, 1, seen, caption="first")
        second = change(client, 1, seen, caption="second")
        assert (first.status_code, second.status_code) == (200, 412)
        assert second.json()["code"] == "precondition_failed"
        assert captions(client)["1.png"] == "first"
        assert change(client, 1, first.headers["etag"], caption="second").status_code == 200

    def test_files_read_meanwhile_count_as_a_change(self, client: TestClient, make: Any) -> None:
        seen = tag(client)
        upload(client, "style", ("9.txt", b"x"))
        make.read_uploads()
        assert change(client, 1, seen, caption="late").status_code == 412

    def test_who_does_not_say_what_the_change_is_based_on_is_asked(self, client: TestClient) -> None:
        answer = client.patch(f"{HERE}/images/{1:064x}", json={"caption": "x"})
        assert (answer.status_code, answer.json()["code"]) == (428, "precondition_required")
        assert change(client, 1, "W/nonsense", caption="x").json()["errors"][0]["pointer"] == "/header/If-Match"

    def test_another_owner_and_an_unknown_image_are_not_found(
        self, client: TestClient, as_owner: Callable[[str], dict[str, str]]
    ) -> None:
        other = {**as_owner("berta"), "If-Match": "*"}
        path = f"{HERE}/images/{1:064x}"
        assert client.patch(path, json={"caption": "x"}, headers=other).status_code == 404
        assert client.get(f"{HERE}/images", headers=other).status_code == 404
        assert client.post(f"{HERE}/captions/undo", headers=other).status_code == 404
        body = {"action": "prefix", "text": "x"}
        assert client.post(f"{HERE}/captions/edits", json=body, headers=other).status_code == 404
        assert change(client, 77, caption="x").status_code == 404


@pytest.mark.usefixtures("dataset")
class TestAll:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"action": "replace", "find": "caption", "replace": "cat"}, "a cat"),
            ({"action": "replace", "find": "a.", "replace": "x"}, "a caption"),
            ({"action": "replace", "find": r"(\w) (\w+)", "replace": r"\2 \1", "regex": True}, "caption a"),
            ({"action": "prefix", "text": "photo of "}, "photo of a caption"),
            ({"action": "suffix", "text": ", red"}, "a caption, red"),
            ({"action": "add_trigger_word", "trigger_word": "sks"}, "sks, a caption"),
            ({"action": "add_trigger_word", "trigger_word": "CAPTION"}, "a caption"),
        ],
    )
    def test_every_caption_is_rewritten_and_one_undo_takes_it_back(
        self, client: TestClient, body: dict[str, Any], expected: str
    ) -> None:
        would = edit(client, "?dry_run=true", **body).json()
        assert set(captions(client).values()) == {"a caption"}
        done = edit(client, **body).json()
        assert {**would, "dry_run": False} == done
        assert set(captions(client).values()) == {expected}
        assert done["changed"] == (3 if expected != "a caption" else 0)
        if done["changed"]:
            undone = client.post(f"{HERE}/captions/undo", headers={"If-Match": "*"}).json()
            assert undone["changes"][0]["after"] == "a caption"
        assert set(captions(client).values()) == {"a caption"}

    def test_undoing_goes_back_step_by_step_and_then_says_that_nothing_is_left(self, client: TestClient) -> None:
        change(client, 1, caption="mine")
        edit(client, action="suffix", text="!")
        undo = [client.post(f"{HERE}/captions/undo", headers={"If-Match": "*"}) for _ in range(3)]
        assert [answer.status_code for answer in undo] == [200, 200, 409]
        assert [one["after"] for one in undo[1].json()["changes"]] == ["a caption"]

    def test_a_pattern_that_would_run_away_elsewhere_ends(self, client: TestClient) -> None:
        change(client, 1, caption="a" * 5000 + "!")
        answer = edit(client, action="replace", find=r"(a|aa|a*)*$", replace="x", regex=True)
        assert answer.status_code == 200

    def test_a_replacement_that_makes_far_too_much_of_a_caption_is_refused_before_it_is_tidied(
        self, client: TestClient
    ) -> None:
        change(client, 1, caption="a" * 5000)
        answer = edit(client, action="replace", find="a", replace=" " * 500, regex=True)
        assert answer.status_code == 422
        assert "longer than" in answer.json()["errors"][0]["message"]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"find": "(", "replace": ""}, "/find"),
            ({"find": "(?=a)b", "replace": ""}, "/find"),
            ({"find": "a", "replace": r"\3"}, "/replace"),
        ],
    )
    def test_a_wrong_pattern_names_the_field(self, client: TestClient, body: dict[str, str], pointer: str) -> None:
        answer = edit(client, action="replace", regex=True, **body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)

    def test_an_edit_that_makes_a_caption_too_long_changes_none(self, client: TestClient) -> None:
        change(client, 2, caption="b" * 9_990)
        answer = edit(client, action="suffix", text=" and much more")
        assert answer.status_code == 422
        assert captions(client)["0.png"] == "a caption"


@pytest.mark.usefixtures("dataset")
class TestRemoving:
    def test_removing_an_image_touches_no_other(self, client: TestClient) -> None:
        change(client, 2, caption="mine")
        assert change(client, 1, removed=True).json()["removed"] is True
        assert captions(client) == {"0.png": "a caption", "2.png": "mine"}
        assert client.get(HERE).json()["images"] == 2
        ledger = {row["name"]: (row["fate"], row["reason"]) for row in client.get(f"{HERE}/ledger").json()["items"]}
        assert ledger["1.png"] == ledger["1.txt"] == ("rejected", "its image was taken out of the dataset")
        assert ledger["2.txt"] == ("used", None)
        assert client.post(f"{HERE}/versions").json()["train_images"] == 1

    def test_it_can_be_put_back_as_it_was(self, client: TestClient) -> None:
        before = client.get(f"{HERE}/ledger").json()
        change(client, 1, removed=True)
        assert [one["name"] for one in client.get(f"{HERE}/images?removed=true").json()["items"]] == ["1.png"]
        change(client, 1, removed=False)
        assert captions(client)["1.png"] == "a caption"
        assert client.get(f"{HERE}/ledger").json() == before

    def test_a_later_upload_does_not_bring_it_back(self, client: TestClient, make: Any, parts: Parts) -> None:
        change(client, 0, removed=True)
        upload(client, "style", ("again.png", b"x"))
        make.read_uploads()
        assert "0.png" not in captions(client)
        with parts.database.reading() as session:
            assert service.read(session, "local", "style").images == 2


@pytest.mark.usefixtures("dataset")
class TestPages:
    def test_images_are_listed_in_parts(self, client: TestClient) -> None:
        names, cursor = [], ""
        while cursor is not None:
            part = client.get(f"{HERE}/images", params={"limit": 2, "cursor": cursor}).json()
            names += [one["name"] for one in part["items"]]
            cursor = part["next_cursor"]
        assert names == ["0.png", "1.png", "2.png"]
