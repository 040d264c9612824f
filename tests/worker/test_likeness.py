"""Near-duplicates, from real files to the ledger."""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image

from catalog.datasets import ledger
from tests.worker.conftest import OWNER, upload
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.station import Station


def scene(seed: int) -> Image.Image:
    """A smooth picture, as photographs are."""
    small = Image.frombytes("RGB", (6, 6), random.Random(seed).randbytes(108))
    return small.resize((256, 256), Image.Resampling.BICUBIC)


def saved(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


class TestNearDuplicates:
    def test_a_smaller_copy_in_another_format_is_told_and_another_picture_is_not(self, station: Station) -> None:
        files = {
            "a.png": saved(scene(1), "PNG"),
            "small.jpg": saved(scene(1).resize((96, 96)), "JPEG"),
            "other.png": saved(scene(2), "PNG"),
        }
        dataset = upload(station, files)
        with Decoder() as decoder:
            light.work(station, decoder, Shift())
        with station.database.reading() as session:
            entries = {entry.row.filename: entry for entry in ledger.read(session, OWNER, dataset)}
        assert {Path(name).stem for name, entry in entries.items() if entry.near_image} == {"a", "small"}
        assert entries["a.png"].near_image == entries["small.jpg"].row.image
