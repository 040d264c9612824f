"""`patina datasets watch|cancel`: the server reading what was uploaded."""

from __future__ import annotations

from typing import Annotated

import typer

from patina import ingests
from patina.client import Client, Json
from patina.connect import connect
from patina.output import AsJson, facts, give, notes

Which = Annotated[str, typer.Argument(help="Name or id of the dataset.")]


def watch(dataset: Which, as_json: AsJson = False) -> None:
    """Watch the server read what was uploaded, until it has read everything."""
    with connect() as client:
        seen = ingests.follow(client, client.dataset(dataset)["id"], quiet=as_json)
    give(seen, as_json, lambda: facts(ingests.told(seen)))


def cancel(dataset: Which, as_json: AsJson = False) -> None:
    """Read no more of what was uploaded: what was read stays, the rest is rejected and may be uploaded again."""
    with connect() as client:
        seen = ingests.cancel(client, client.dataset(dataset)["id"])
    give(seen, as_json, lambda: facts(ingests.told(seen)))


def wait_until_read(client: Client, dataset: Json, quiet: bool) -> Json:
    """Follow the reading of what was just sent; interrupted, it says how to take it up again."""
    try:
        return ingests.follow(client, dataset["id"], quiet=quiet)
    except KeyboardInterrupt:
        name = dataset["name"]
        words = f"The server goes on reading. Follow it with `patina datasets watch {name}`"
        notes.print(f"{words}, or end it with `patina datasets cancel {name}`.", highlight=False, soft_wrap=True)
        raise
