"""`patina datasets versions`, `diff` and `download`: frozen versions, compared and taken home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from patina import contents
from patina.client import Json
from patina.connect import connect
from patina.output import AsJson, facts, give, rows, short, size
from patina.targets import writing
from patina.times import when

SHOWN_CHANGES = 50

Which = Annotated[str, typer.Argument(help="Name or id of the dataset.")]


def list_versions(dataset: Which, as_json: AsJson = False) -> None:
    """List the frozen versions."""
    with connect() as client:
        found = client.versions(dataset)
    columns = ("version", "trained on", "held out", "digest", "frozen")
    lines = (
        (
            v["version"],
            v["train_images"],
            v["held_out_images"],
            short(v["digest"]),
            f"{when(v['created_at'])}{', withdrawn' if v['withdrawn'] else ''}",
        )
        for v in found
    )
    give({"items": found}, as_json, lambda: rows(columns, lines, "None yet; `patina datasets freeze NAME`."))


def diff(
    dataset: Which,
    older: Annotated[int, typer.Argument(min=1, help="Number of the older version.")],
    newer: Annotated[int, typer.Argument(min=1, help="Number of the newer version.")],
    as_json: AsJson = False,
) -> None:
    """Show what became of each image between two versions."""
    with connect() as client:
        found = contents.difference(client, dataset, str(newer), older)
    give(found, as_json, lambda: _difference(found))


def download(
    dataset: Which,
    version: Annotated[int | None, typer.Option(min=1, help="Its number; left out, the latest.")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="As Parquet.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File, or folder to put it in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download a version as a zip of images and metadata.jsonl (Hugging Face's imagefolder), or as Parquet."""
    form = "parquet" if parquet else "imagefolder.zip"
    with connect() as client:
        there = (found["version"] for found in client.versions(dataset) if not found["withdrawn"])
        number = version or next(there, "latest")
        # Not NAME.zip: that may well be what the dataset was made of.
        name = f"{dataset}-v{number}.{'parquet' if parquet else 'zip'}"
        target = (output or Path(name)).expanduser()
        target = target / name if target.is_dir() else target
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        written = contents.download(client, dataset, str(number), form, target)
    told = {"file": str(target), "bytes": written}
    give(told, as_json, lambda: facts([("file", target), ("size", size(written))]))


def _difference(found: Json) -> RenderableType:
    lines: list[tuple[Any, ...]] = [("added", one["name"], one["caption"]) for one in found["added"]]
    lines += [("removed", one["name"], one["caption"]) for one in found["removed"]]
    lines += [("caption", one["name"], f"{one['before']} → {one['after']}") for one in found["caption_changed"]]
    lines += [
        (change["what"], one["name"], f"{_told(change, 'before')} → {_told(change, 'after')}")
        for one in (*found["caption_changed"], *found["otherwise_changed"])
        for change in one["changes"]
    ]
    counts = {
        "added": len(found["added"]),
        "removed": len(found["removed"]),
        "caption changed": len(found["caption_changed"]),
        "otherwise changed": len(found["otherwise_changed"]),
    }
    table = rows(("what", "image", "caption or change"), lines[:SHOWN_CHANGES], "The two have the same content.")
    return Group(table, facts(counts.items()))


def _told(change: Json, side: str) -> str:
    value = change[side]
    return "none" if value is None else str(short(value) if change["what"] == "mask" else value)
