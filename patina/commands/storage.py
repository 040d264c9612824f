"""`patina df`: what uses how much."""

from __future__ import annotations

from rich.console import Group

from patina.connect import connect
from patina.output import AsJson, facts, give, rows, size


def df(as_json: AsJson = False) -> None:
    """Show what uses how much of the server's storage, and how much is left."""
    with connect() as client:
        found = client.request("GET", "/api/v1/storage").json()
    lines = (
        (f"{use['what']} {use['name']}" if use["name"] else use["what"], use["files"], size(use["bytes"]))
        for use in found["items"]
        if use["files"]
    )
    free = None if found["free_bytes"] is None else size(found["free_bytes"])
    give(
        found,
        as_json,
        lambda: Group(
            rows(("what", "files", "size"), lines, "Nothing is stored yet."),
            facts([("free", free), ("kept in reserve", size(found["reserve_bytes"]))]),
        ),
    )
