"""A station on a home of its own, and what is uploaded to it."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from catalog.blobs import upload_key
from catalog.datasets import service as datasets
from tests.databases import new_home
from worker.settings import WorkerSettings
from worker.station import Station, open_station

OWNER = "local"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATINA_HOME for this test; no broker runs there, so every ring is lost."""
    monkeypatch.setenv("PATINA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATINA_DEVICE", "cpu")
    return tmp_path / "home"


@pytest.fixture
def station(home: Path) -> Iterator[Station]:
    new_home(home)
    station = open_station("test", ("cpu",), WorkerSettings(home=home, lease_s=30, sweep_s=0.2, device="cpu"))
    yield station
    station.close()


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    """A PNG of random pixels."""
    stream = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3)).save(stream, "PNG")
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def upload(station: Station, files: dict[str, bytes], name: str = "pictures") -> str:
    """Offer files to the dataset of that name, as the API does; returns its id."""
    stored = {file: upload_key(OWNER) for file in files}
    for file, key in stored.items():
        station.blobs.put_bytes(key, files[file])
    with station.database.session() as session:
        known = [dataset.id for dataset in datasets.list_datasets(session, OWNER).items if dataset.name == name]
        dataset_id = known[0] if known else datasets.create(session, OWNER, name).id
        for file, key in stored.items():
            datasets.offer_upload(session, OWNER, dataset_id, file, key, len(files[file]))
    return dataset_id


def fates(station: Station, dataset_id: str) -> dict[str, tuple[str, str | None]]:
    """The ledger: file name -> fate and reason."""
    with station.database.reading() as session:
        return {row.filename: (row.fate, row.reason) for row in datasets.ledger(session, OWNER, dataset_id)}


def captions(station: Station, dataset_id: str) -> dict[str, str | None]:
    """Captions of the used pictures, by file name."""
    with station.database.reading() as session:
        rows = datasets.ledger(session, OWNER, dataset_id)
        return {row.filename: row.caption for row in rows if row.kind == "image" and row.fate == "used"}
