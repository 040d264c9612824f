"""What a change of one image costs in a large dataset, and how long finding near-duplicates takes.

One dataset with a caption and a perceptual hash for each image, in SQLite, and if asked the lines of a metadata file:
bringing everything together, as the end of an upload does, and once more when nothing is new, both of which hold the
database's writing lock; taking single images out; removing one everywhere. Then hashes alone. Prints a table.

    python -m benchmarks.settling [--images 8000] [--lines 0] [--hashes 1000 10000 40000]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from catalog import jobs, removing
from catalog.datasets import editing, ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage, MetadataLine
from catalog.datasets.likeness import nearest
from catalog.datasets.settling import settle
from catalog.db import Database
from contracts.likeness import LIKENESS_BITS

OWNER = "local"
SINGLE = 20
"""Images taken out one after the other; the table has the mean."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--hashes", type=int, nargs="*", default=[1000, 10_000, 40_000])
    asked = parser.parse_args()
    table = Table("what", "ms")
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'patina.db'}")
        database.upgrade()
        dataset = _fill(database, asked.images, asked.lines)
        names = [_identity(number) for number in range(SINGLE + 1)]
        title = f"of {asked.images} images with captions"
        title += f" and {asked.lines} lines" if asked.lines else ""
        table.add_row(f"settle all {title}", _ms(lambda: _settle(database, dataset)))
        table.add_row("settle them again", _ms(lambda: _settle(database, dataset)))
        table.add_row(f"take one out {title}", _ms(lambda: _take_out(database, dataset, names[:SINGLE]), SINGLE))
        table.add_row(f"remove one everywhere {title}", _ms(lambda: _remove(database, dataset, names[SINGLE])))
        database.close()
    for count in asked.hashes:
        hashes = {_identity(number): _likeness(number) for number in range(count)}
        table.add_row(f"near-duplicates among {count} hashes", _ms(partial(nearest, hashes)))
    Console().print(table)


def _fill(database: Database, count: int, lines: int) -> str:
    with database.session() as session:
        dataset = datasets.create(session, OWNER, "many").id
        for number in range(count):
            for extension in ("png", "txt"):
                datasets.offer_upload(session, OWNER, dataset, f"{number}.{extension}", "uploads/local/x", 1)
        if lines:
            datasets.offer_upload(session, OWNER, dataset, "metadata.jsonl", "uploads/local/x", 1)
    with database.session() as session:
        (claim,) = jobs.claim(session, jobs.Queue.LIGHT, "bench", 3600)
    with database.session() as session:
        for row in ingest.pending_files(session, claim, 2 * count + 1):
            if row.kind == "metadata":
                told = [MetadataLine(number, f"{number}.png", f"line {number}") for number in range(lines)]
                ingest.record_metadata(session, claim, row.id, told)
                continue
            number = int(row.filename.partition(".")[0])
            if row.kind == "image":
                identity = _identity(number)
                made = DecodedImage(identity, 64, 64, f"images/{identity}", likeness=_likeness(number))
                ingest.record_image(session, claim, row.id, made)
            else:
                ingest.record_caption(session, claim, row.id, f"caption {number}")
    return dataset


def _settle(database: Database, dataset: str) -> None:
    with database.session() as session:
        settle(session, OWNER, dataset)


def _take_out(database: Database, dataset: str, images: list[str]) -> None:
    for image in images:
        with database.session() as session:
            editing.remove_image(session, OWNER, dataset, image, None)


def _remove(database: Database, dataset: str, image: str) -> None:
    with database.session() as session:
        removing.remove_image(session, OWNER, dataset, image)


def _identity(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _likeness(number: int) -> str:
    """One in ten is much like the one before it."""
    bits = random.Random(number - 1 if number % 10 == 9 else number).getrandbits(LIKENESS_BITS)
    return f"{bits ^ (number % 10 == 9):0{LIKENESS_BITS // 4}x}"


def _ms(work: Callable[[], object], times: int = 1) -> str:
    began = time.perf_counter()
    work()
    return f"{(time.perf_counter() - began) / times * 1000:.0f}"


if __name__ == "__main__":
    main()
