"""Uploads into a bucket: sent to one API process, cut off, gone on with at another, read by a worker elsewhere."""

from __future__ import annotations

import http.client
import io
import random
import secrets
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from tusclient.client import TusClient

from api.tus import BODY_TYPE
from catalog.blobs import BlobStore
from catalog.datasets.ingests import read
from tests.serving import Server, serving
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.settings import WorkerSettings
from worker.station import open_station

PATIENCE_S = 30.0
NOISE = Image.frombytes("RGB", (1500, 1300), random.Random(1).randbytes(1500 * 1300 * 3))
CHUNK = 3_000_000


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a moto server's, where this process and its children find it."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patched.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="patina")
        yield f"s3://patina/{secrets.token_hex(4)}"
    server.stop()


@pytest.fixture
def servers(bucket: str, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two API processes on one database and one bucket."""
    home = tmp_path / "home"
    with (
        serving(home, PATINA_STORAGE_URL=bucket) as first,
        serving(home, PATINA_STORAGE_URL=bucket) as second,
    ):
        yield first, second


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of more than one piece: a large picture, and a small one with a caption."""
    large, small = io.BytesIO(), io.BytesIO()
    NOISE.save(large, "PNG", compress_level=0)
    NOISE.crop((0, 0, 64, 48)).save(small, "PNG")
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in {"large.png": large.getvalue(), "small.png": small.getvalue(), "small.txt": b"small"}.items():
            packed.writestr(name, data)
    return path


@pytest.mark.slow
def test_an_upload_that_is_cut_goes_on_at_another_process_and_is_read(
    servers: tuple[Server, Server], bucket: str, archive: Path
) -> None:
    first, second = servers
    with first.client() as client:
        client.create_dataset("style")
    content = archive.read_bytes()
    metadata = {"filename": "set.zip", "dataset": "style"}
    sending = TusClient(f"{first.url}/api/v1/uploads").uploader(str(archive), chunk_size=CHUNK, metadata=metadata)
    sending.upload(stop_at=CHUNK)
    path = sending.url.removeprefix(first.url)

    connection = http.client.HTTPConnection("127.0.0.1", second.port)
    connection.putrequest("PATCH", path)
    for name, value in {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": str(CHUNK),
        "Content-Type": BODY_TYPE,
        "Content-Length": str(len(content) - CHUNK),
    }.items():
        connection.putheader(name, value)
    connection.endheaders(content[CHUNK : CHUNK + 1_000_000])
    connection.close()
    until = time.monotonic() + PATIENCE_S
    while first.offset(path) == CHUNK and time.monotonic() < until:
        pass
    assert first.offset(path) == CHUNK + 1_000_000, "what came before the connection broke did not count"

    first.kill()
    going_on = TusClient(f"{second.url}/api/v1/uploads").uploader(str(archive), url=second.url + path)
    going_on.upload()
    assert second.offset(path) == len(content)
    blobs = BlobStore(bucket)
    assert [blob.bytes for blob in blobs.listed("uploads")] == [len(content)]
    assert list(blobs.listed("pieces")) == []

    station = open_station("test", ("cpu",), WorkerSettings(home=second.home, storage_url=bucket, device="cpu"))
    with Decoder() as decoder:
        assert light.work(station, decoder, Shift())
    with station.database.reading() as session:
        seen = read(session, "local", "style")
    station.close()
    assert (seen.status, seen.found, seen.fates["used"]) == ("done", 4, 4)
    with second.client() as client:
        rows = {row["name"]: row for row in client.ledger("style")}
    assert (rows["small.png"]["caption"], rows["large.png"]["width"]) == ("small", NOISE.width)
    stored = blobs.get_bytes(f"images/local/{rows['large.png']['image'][:2]}/{rows['large.png']['image']}.png")
    with Image.open(io.BytesIO(stored)) as image:
        assert image.tobytes() == NOISE.tobytes()
    assert list(blobs.listed("uploads")) == []


def test_what_another_process_stores_after_a_listing_is_found(bucket: str) -> None:
    """As the collector lists in the worker, and the next upload comes to the API."""
    blobs = BlobStore(f"{bucket}/listed")
    blobs.put_bytes("uploads/local/a", b"first")
    assert [blob.key for blob in blobs.listed("uploads")] == ["uploads/local/a"]
    _, _, name, prefix = f"{bucket}/listed".split("/", 3)
    boto3.client("s3").put_object(Bucket=name, Key=f"{prefix}/uploads/local/b", Body=b"second")
    assert blobs.exists("uploads/local/b")
    assert (blobs.size("uploads/local/b"), blobs.get_bytes("uploads/local/b")) == (6, b"second")
