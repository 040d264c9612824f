"""`patina datasets fetch`: have the server fetch pictures from a list of addresses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from patina import address_lists, contents
from patina.client import Json
from patina.commands.dataset_reading import wait_until_read
from patina.connect import connect
from patina.edge import FAILURE_CODE
from patina.output import AsJson, facts, give

SHOWN_TROUBLES = 20


def fetch(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset; made when it is not there.")],
    addresses: Annotated[
        Path,
        typer.Argument(
            metavar="LIST", help="File with one address a line, or CSV or JSONL with `url` and a column of captions."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Have the server fetch pictures from a list of addresses and wait until it has; says what became of each.

    What the dataset has is not fetched again, so that it can be run again after any interruption. Fails when everything
    was rejected.
    """
    wanted = address_lists.read(addresses.expanduser())
    with connect() as client:
        found = contents.found_or_made(client, dataset)
        offered = address_lists.send(client, found["id"], wanted)
        ingest = wait_until_read(client, found, quiet=as_json)
        found = client.dataset(found["id"])
        named = {one["url"] for one in wanted}
        rows = [row for row in client.ledger(found["id"]) if row["name"] in named]
    fates = dict(Counter(row["fate"] for row in rows))
    answer = {"dataset": found, "offered": offered, "ingest": ingest, "fates": fates, "items": rows}
    give(answer, as_json, lambda: _fetched(answer))
    if contents.came_to_nothing(rows, named):
        raise typer.Exit(FAILURE_CODE)


def _fetched(answer: dict[str, Any]) -> RenderableType:
    dataset, rows = answer["dataset"], answer["items"]
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(answer["fates"].items()))
    offered = answer["offered"]
    parts: list[RenderableType] = [
        facts(
            [
                ("dataset", dataset["name"]),
                ("images", dataset["images"]),
                ("addresses", fates),
                ("fetched again", offered["again"] or None),
                ("there before", offered["known"] or None),
            ]
        )
    ]
    troubles: list[Json] = [row for row in rows if row["fate"] != "used"]
    parts += [
        Text(f"{row['name']}: {row['reason'] or row['fate']}", style="yellow") for row in troubles[:SHOWN_TROUBLES]
    ]
    if len(troubles) > SHOWN_TROUBLES:
        parts.append(Text(f"… and {len(troubles) - SHOWN_TROUBLES} more: patina datasets ledger {dataset['name']}"))
    return Group(*parts)
