"""The reading of a dataset's files as the command shows it: a bar that follows the server, and the numbers of it.

Knows nothing about how files were sent.
"""

from __future__ import annotations

import json

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from contracts.ingest import ENDED, IngestPhase, IngestStatus
from patina.client import Client, Json
from patina.output import notes, size

LONGEST_WORDS = 60
BAR_COLUMNS = 20
"""Narrow, so that what is done fits beside it on eighty columns."""


def follow(client: Client, dataset_id: str, *, quiet: bool = False) -> Json:
    """Follow the reading of a dataset's files to its end; what it came to.

    Args:
        quiet: shows nothing, for callers that print one document at the end.
    """
    path = f"/datasets/{dataset_id}/ingest"
    seen: Json = client.request("GET", f"/api/v1{path}").json()
    columns = (TextColumn("reading"), BarColumn(BAR_COLUMNS), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=notes, transient=True, disable=quiet) as progress:
        bar = progress.add_task(doing(seen), total=seen["found"], completed=seen["done"])
        for message in client.events(path, ENDED):
            seen = json.loads(message.data)
            progress.update(bar, description=doing(seen), total=seen["found"], completed=seen["done"])
    return seen


def cancel(client: Client, dataset_id: str) -> Json:
    """Have the server read no more of what was offered."""
    answer: Json = client.request("POST", f"/api/v1/datasets/{dataset_id}/ingest/cancel").json()
    return answer


def doing(ingest: Json) -> str:
    """What the server does now, in a few words."""
    if ingest["waits_for"]:
        return str(ingest["waits_for"])
    if ingest["phase"] is None or ingest["status"] == IngestStatus.CANCELLING:
        return str(ingest["status"])
    if ingest["phase"] == IngestPhase.SETTLING:
        return "bringing captions and pictures together"
    taken = "" if ingest["file_done"] is None else f" {ingest['file_done']}"
    of = "" if ingest["file_total"] is None else f"/{ingest['file_total']}"
    return f"{ingest['phase']} {_shortened(ingest['file'] or '')}{taken}{of}"


def told(ingest: Json) -> list[tuple[str, object]]:
    """The numbers of a reading, for a person."""
    fates = ", ".join(f"{ingest[fate]} {fate}" for fate in ("used", "duplicate", "rejected") if ingest[fate])
    over = ingest["status"] in ENDED
    return [
        ("reading", ingest["status"]),
        ("files", f"{ingest['done']} of {ingest['found']}" + (f": {fates}" if fates else "")),
        ("bytes", f"{size(ingest['done_bytes'])} of {size(ingest['found_bytes'])}"),
        ("doing", None if over else doing(ingest)),
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_WORDS else f"…{name[1 - LONGEST_WORDS :]}"
