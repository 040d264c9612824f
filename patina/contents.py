"""What is in a dataset, over HTTP: its ledger, its images and captions, its versions. Knows nothing about terminals.

Every change is based on the state that was read last, so that it never overwrites what somebody else changed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import FileKind
from patina.client import Client, Json

MOST_AT_ONCE = 200
HOLDERS = frozenset({FileKind.ARCHIVE, FileKind.TABLE, FileKind.METADATA})
"""Kinds of rows that are only as good as the rows of what is in them."""


def found_or_made(client: Client, name: str) -> Json:
    """The dataset of this name, made when it is not there."""
    try:
        return client.dataset(name)
    except PatinaError as error:
        if error.code is not FailureCode.NOT_FOUND:
            raise
    return client.create_dataset(name)


def ledger(client: Client, dataset: str, wanted: Mapping[str, str | int | None]) -> list[Json]:
    """The rows of the ledger; ``wanted`` is its query: of which fate, with buckets at which resolution or base."""
    return _pages(client, f"{_at(dataset)}/ledger", wanted)[0]


def came_to_nothing(rows: Iterable[Json], names: Container[str]) -> bool:
    """Whether everything was rejected that was offered under these names, what was in it included.

    Args:
        rows: the ledger, in its order; of rows of one name the last counts.
    """
    newest: dict[str, Json] = {}
    inside: dict[int, list[Json]] = {}
    for row in rows:
        if row["inside"] is not None:
            inside.setdefault(row["inside"], []).append(row)
        elif row["name"] in names:
            newest[row["name"]] = row
    offered = list(newest.values())
    for row in offered:  # grows by what was in each, which may hold something, too
        offered += inside.get(row["id"], ())
    accepted = [row for row in offered if row["fate"] != Fate.REJECTED and row["kind"] not in HOLDERS]
    return bool(offered) and not accepted


def tally(client: Client, dataset: str) -> Json:
    """The ledger in numbers."""
    return dict(client.request("GET", f"{_at(dataset)}/ledger/summary").json())


def save_ledger(client: Client, dataset: str, target: Path, wanted: Mapping[str, str | int | None]) -> int:
    """Write the same as CSV, all of it or nothing; its size in bytes."""
    query = urlencode({"format": "csv"} | {name: value for name, value in wanted.items() if value is not None})
    return client.download(f"/datasets/{dataset}/ledger?{query}", target)


def images(client: Client, dataset: str, *, removed: bool = False) -> tuple[list[Json], str]:
    """The images, and the ETag of the state they were read at."""
    return _pages(client, f"{_at(dataset)}/images", {"removed": removed or None, "limit": MOST_AT_ONCE})


def change_image(client: Client, dataset: str, named: str, change: Mapping[str, Any], *, removed: bool = False) -> Json:
    """Change the one image with this file name or beginning of its identity.

    Raises:
        PatinaError: NOT_FOUND or CONFLICT: none, or several, are called that.
    """
    meant, tag = find_image(client, dataset, named, removed=removed)
    path = f"{_at(dataset)}/images/{meant['image']}"
    return dict(client.request("PATCH", path, json=dict(change), headers={"If-Match": tag}).json())


def find_image(client: Client, dataset: str, named: str, *, removed: bool = False) -> tuple[Json, str]:
    """The one image with this file name or beginning of its identity, and the ETag of the state it was read at.

    Raises:
        PatinaError: NOT_FOUND or CONFLICT: none, or several, are called that.
    """
    found, tag = images(client, dataset, removed=removed)
    meant = [one for one in found if one["name"] == named] or [one for one in found if one["image"].startswith(named)]
    if not meant:
        raise PatinaError(FailureCode.NOT_FOUND, f"'{dataset}' has no image '{named}'.", "List them: captions ls.")
    if len(meant) > 1:
        message = f"{len(meant)} images of '{dataset}' are called '{named}'."
        raise PatinaError(FailureCode.CONFLICT, message, "Name the one by the beginning of its identity: captions ls.")
    return meant[0], tag


def edit_captions(client: Client, dataset: str, edit: Mapping[str, Any], *, dry_run: bool) -> Json:
    """Rewrite every caption, or say what would change."""
    query = {"dry_run": "true"} if dry_run else {}
    headers = {"If-Match": _tag(client, dataset)}
    path = f"{_at(dataset)}/captions/edits"
    return dict(client.request("POST", path, json=dict(edit), params=query, headers=headers).json())


def undo(client: Client, dataset: str) -> Json:
    """Take the last edit of captions back."""
    headers = {"If-Match": _tag(client, dataset)}
    return dict(client.request("POST", f"{_at(dataset)}/captions/undo", headers=headers).json())


def difference(client: Client, dataset: str, version: str, against: int) -> Json:
    """What a version differs in from another."""
    path = f"{_at(dataset)}/versions/{version}/diff"
    return dict(client.request("GET", path, params={"against": against}).json())


def download(client: Client, dataset: str, version: str, form: str, target: Path) -> int:
    """Write a version as ``imagefolder.zip`` or ``parquet``, all of it or nothing; its size in bytes."""
    return client.download(f"/datasets/{dataset}/versions/{version}/{form}", target)


def _at(dataset: str) -> str:
    return f"/api/v1/datasets/{dataset}"


def _tag(client: Client, dataset: str) -> str:
    return str(client.request("GET", f"{_at(dataset)}/images", params={"limit": 1}).headers["etag"])


def _pages(client: Client, path: str, wanted: Mapping[str, Any]) -> tuple[list[Json], str]:
    """Every item, and the ETag of the first page: what changed while the others were read is found out by it."""
    query = {name: value for name, value in wanted.items() if value is not None}
    found: list[Json] = []
    tag, cursor = "", ""
    while cursor is not None:
        answer = client.request("GET", path, params={**query, **({"cursor": cursor} if cursor else {})})
        tag = tag or answer.headers.get("etag", "")
        found += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
    return found, tag
