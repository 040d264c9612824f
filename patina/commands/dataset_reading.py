"""`patina datasets watch|cancel`: the server reading what was uploaded."""

from __future__ import annotations

from typing import Annotated

import typer

from patina import ingests
from patina.connect import connect
from patina.output import AsJson, facts, give

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
