"""What reading an upload costs: the light worker's ingest beside bare decode, re-encode and sha256 of the same files.

Floor and ingest take turns over the same photographs, so that the machine's moods hit both alike; ratios are medians
over the turns, of wall time and of processor time (worker and decoding child together). Then growth: one dataset each
of 100, 1 000 and 10 000 small pictures, with time a picture, the memory of worker and decoding child, and how long one
page of the ledger takes. Prints tables and a JSON line.

    python -m benchmarks.ingest [--files 60] [--pixels 1024] [--turns 3] [--sizes 100 1000 10000]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from catalog.blobs import upload_key
from catalog.datasets import service as datasets
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.settings import WorkerSettings
from worker.station import Station, open_station

OWNER = "local"
SMALL_PX = 64
PAGE = 100
PAGE_READS = 20
OFFERED_AT_ONCE = 500


def main() -> None:
    asked = _arguments()
    console = Console()
    # No broker runs here, and every ring that is lost says so.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    seeds = track(range(asked.files), "photographs", console=console)
    photographs = [_photograph(seed, asked.pixels) for seed in seeds]
    table = Table("turn", "floor s", "ingest s", "ratio", "ratio of processor time")
    table.title = f"{asked.files} JPEG of {asked.pixels} px"
    ratios: list[tuple[float, float]] = []
    for turn in range(asked.turns):
        floor, ingest = _floor(photographs), _ingest(photographs)
        ratios.append((ingest["seconds"] / floor[0], ingest["processor_seconds"] / floor[1]))
        cells = (floor[0], ingest["seconds"], *ratios[-1])
        table.add_row(str(turn + 1), *(f"{value:.2f}" for value in cells))
    console.print(table)
    growth = []
    grown = Table("pictures", "ms a picture", "worker MB", "decoder MB", f"page of {PAGE} rows, p95 ms", title="growth")
    for size in asked.sizes:
        found = _ingest([_photograph(seed, SMALL_PX) for seed in range(size)])
        growth.append({"pictures": size, **found})
        each_ms = 1e3 * found["seconds"] / size
        row = (each_ms, found["worker_mb"], found["decoder_mb"], found["page_p95_ms"])
        grown.add_row(str(size), *(f"{value:.1f}" for value in row))
    console.print(grown)
    wall, processor = (round(statistics.median(column), 3) for column in zip(*ratios, strict=True))
    told = {"ingest_over_floor": wall, "processor_time_over_floor": processor, "bar": 1.3, "growth": growth}
    console.print_json(json.dumps(told), indent=None)


def _photograph(seed: int, side_px: int) -> bytes:
    """A JPEG with large shapes and fine grain, so that it compresses as a photograph does."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side_px, side_px))
    grainy = np.asarray(coarse, dtype=np.int16) + random.integers(-6, 7, (side_px, side_px, 1), dtype=np.int16)
    stream = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _floor(files: Sequence[bytes]) -> tuple[float, float]:
    """Wall and processor seconds of decode, PNG of level 1, hash and write: what no ingest can do without."""
    with tempfile.TemporaryDirectory() as folder:
        started, worked = time.perf_counter(), time.process_time()
        for index, data in enumerate(files):
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            hashlib.sha256(picture.tobytes()).hexdigest()
            picture.save(Path(folder) / f"{index}.png", "PNG", compress_level=1)
        return time.perf_counter() - started, time.process_time() - worked


def _ingest(files: Sequence[bytes]) -> dict[str, Any]:
    """Have the light worker read files that were offered to a dataset of a home of their own."""
    with tempfile.TemporaryDirectory() as home, Decoder() as decoder:
        station = open_station("bench", ("cpu",), WorkerSettings(home=Path(home), device="cpu"))
        dataset = _offer(station, files)
        decoder.decode(files[0])  # the child's start is not what is measured
        shift = Shift()
        started, worked = time.perf_counter(), _processor_seconds()
        while light.work(station, decoder, shift):
            pass
        found: dict[str, Any] = {
            "seconds": round(time.perf_counter() - started, 3),
            "processor_seconds": round(_processor_seconds() - worked, 3),
        }
        found["worker_mb"] = _resident_mb("self")
        found["decoder_mb"] = max(map(_resident_mb, _children()), default=0.0)
        found["page_p95_ms"] = _page_p95_ms(station, dataset)
        with station.database.reading() as session:
            images = datasets.read(session, OWNER, dataset).images
        if images != len(files):
            raise SystemExit(f"{images} of {len(files)} pictures were read")
        station.close()
        return found


def _offer(station: Station, files: Sequence[bytes]) -> str:
    with station.database.session() as session:
        dataset = datasets.create(session, OWNER, "bench").id
    for start in range(0, len(files), OFFERED_AT_ONCE):
        with station.database.session() as session:
            for index, data in enumerate(files[start : start + OFFERED_AT_ONCE], start):
                key = upload_key(OWNER)
                station.blobs.put_bytes(key, data)
                datasets.offer_upload(session, OWNER, dataset, f"{index:05d}.jpg", key, len(data))
    return dataset


def _page_p95_ms(station: Station, dataset: str) -> float:
    """How long the last page of the ledger takes to read."""
    times = []
    with station.database.reading() as session:
        last = max(row.id for row in datasets.ledger(session, OWNER, dataset, 0, 1_000_000))
        for _ in range(PAGE_READS):
            session.expire_all()
            started = time.perf_counter()
            datasets.ledger(session, OWNER, dataset, last - PAGE, PAGE)
            times.append(1e3 * (time.perf_counter() - started))
    return round(statistics.quantiles(times, n=20)[-1], 2)


def _processor_seconds() -> float:
    """Of this process and the children it has now."""
    ticks = [Path("/proc", child, "stat").read_text().rpartition(")")[2].split()[11:13] for child in _children()]
    return time.process_time() + sum(int(part) for pair in ticks for part in pair) / os.sysconf("SC_CLK_TCK")


def _children() -> list[str]:
    return Path("/proc/self/task", Path("/proc/thread-self").resolve().name, "children").read_text().split()


def _resident_mb(process: str) -> float:
    line = next(line for line in Path("/proc", process, "status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10000])
    return parser.parse_args()


if __name__ == "__main__":
    main()
