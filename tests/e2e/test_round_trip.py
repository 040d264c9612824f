"""A version downloaded and uploaded again is the same content: the real API, the real worker, real files."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import datasets as hugging_face
from api.app import create_app
from api.settings import ApiSettings
from contracts.buckets import Bucket
from tests.databases import new_home
from trainer.feed import Views
from trainer.images import IdentityMemory
from trainer.masks import make_masks
from trainer.mixed import read_run_data
from trainer.recipe import DataSource
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.settings import WorkerSettings
from worker.station import Station, open_station

API = "/api/v1/datasets"
IMAGES = 12


@pytest.fixture
def web(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(ApiSettings(home=new_home(tmp_path))), base_url="http://localhost", client=("127.0.0.1", 1)
    ) as web:
        yield web


@pytest.fixture
def station(web: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setenv("PATINA_HOME", str(tmp_path))
    station = open_station("test", ("cpu",), WorkerSettings(home=tmp_path, device="cpu"))
    yield station
    station.close()


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def picture(seed: int) -> bytes:
    return encoded(Image.frombytes("RGB", (32, 24), random.Random(seed).randbytes(32 * 24 * 3)))


def filled(web: TestClient, station: Station, name: str, files: dict[str, bytes]) -> None:
    web.post(API, json={"name": name})
    sent = [("files", (file, data, "application/octet-stream")) for file, data in files.items()]
    assert web.post(f"{API}/{name}/files", files=sent).status_code == 202
    with Decoder() as decoder:
        while light.work(station, decoder, Shift()):
            pass


def frozen(web: TestClient, name: str, held_out_share: float = 0.2) -> Any:
    answer = web.post(f"{API}/{name}/versions", json={"held_out_share": held_out_share})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_an_imagefolder_zip_gives_the_digest_it_was_made_from(
    web: TestClient, station: Station, tmp_path: Path
) -> None:
    files = {f"{n}.png": picture(n) for n in range(IMAGES)}
    files |= {f"{n}.txt": f'number "{n}", größer'.encode() for n in range(1, IMAGES)}
    files |= {"3_sks cat/x.png": picture(100), "1_mask.png": picture(200)}
    filled(web, station, "one", files)
    edit = {"action": "suffix", "text": ", red"}
    assert web.post(f"{API}/one/captions/edits", json=edit, headers={"If-Match": "*"}).json()["changed"] == IMAGES + 1
    first = frozen(web, "one")
    zipped = web.get(f"{API}/one/versions/latest/imagefolder.zip").content
    filled(web, station, "two", {"again.zip": zipped})
    second = frozen(web, "two")
    assert second["digest"] == first["digest"]
    assert web.get(f"{API}/two/versions/1/imagefolder.zip").content != b""
    told = web.get(f"{API}/two/ledger/summary").json()
    assert (told["images"], told["rejected"]) == (IMAGES + 1, 0)

    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        names = set(archive.namelist())
        archive.extractall(folder)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert {line["file_name"] for line in lines} == {name for name in names if "_mask" not in name} - {"metadata.jsonl"}


def test_an_alpha_channel_masks_its_picture_from_the_upload_to_the_trainers_feed_as_in_a_folder(
    web: TestClient, station: Station, tmp_path: Path
) -> None:
    soft = Image.radial_gradient("L")
    files = {"opaque.png": picture(0)}
    for name, mode in {"cut.png": "RGBA", "grey.png": "LA", "masked.png": "RGBA"}.items():
        image = Image.effect_noise((72, 56), 60).convert(mode)
        image.putalpha(soft.resize(image.size).rotate(17))
        files[name] = encoded(image)
    files["masked_mask.png"] = encoded(Image.linear_gradient("L").resize((72, 56)))
    filled(web, station, "one", files)
    frozen(web, "one", held_out_share=0)
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "data.parquet").write_bytes(web.get(f"{API}/one/versions/1/parquet").content)
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).write_bytes(data)
    found = []
    for place in ("version", "folder"):
        data = read_run_data([DataSource(path=tmp_path / place)], IdentityMemory(tmp_path / f"{place}.jsonl"))
        views, masks = Views((Bucket(64, 48),)), make_masks(data.read, data.read_mask, 8)
        found.append({row.source_name: masks(row, views.of(row)) for row in data.mixture.rows})
    uploaded, alone = found
    assert uploaded.keys() == alone.keys() == files.keys() - {"masked_mask.png"}
    for name, mask in alone.items():
        assert torch.equal(uploaded[name], mask), name
        assert (mask.min() < 0.7) == (name != "opaque.png")
    ledger = {line["name"]: (line["fate"], line["reason"]) for line in web.get(f"{API}/one/ledger").json()["items"]}
    assert ledger["cut.png:alpha"] == ("used", None)
    assert ledger["masked.png:alpha"] == ("duplicate", "replaced by masked_mask.png")


def test_hugging_face_datasets_reads_the_zip_as_an_imagefolder(
    web: TestClient, station: Station, tmp_path: Path
) -> None:
    files = {f"{n}.png": picture(n) for n in range(3)} | {f"{n}.txt": f"number {n}".encode() for n in range(3)}
    filled(web, station, "one", files)
    frozen(web, "one")
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(io.BytesIO(web.get(f"{API}/one/versions/1/imagefolder.zip").content)) as archive:
        archive.extractall(folder)
    cache = str(tmp_path / "cache")
    read = hugging_face.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache)
    assert {row["text"] for row in read} == {"number 0", "number 1", "number 2"}
    assert {row["image"].size for row in read} == {(32, 24)}


@pytest.mark.parametrize("form", ["imagefolder.zip", pytest.param("parquet", marks=pytest.mark.slow)])
def test_marked_splits_concepts_without_caption_and_bare_images_come_back(
    web: TestClient, station: Station, form: str
) -> None:
    files = {f"{n}.png": picture(n) for n in range(IMAGES)} | {"3_dog/a.png": picture(50), "3_dog/b.png": picture(51)}
    files |= {f"{n}.txt": b"a cat" for n in range(3, IMAGES)}
    filled(web, station, "one", files)
    images = {one["name"]: one["image"] for one in web.get(f"{API}/one/images").json()["items"]}
    anyhow = {"If-Match": "*"}
    for name, change in {
        "1.png": {"split": "held_out"},
        "2.png": {"split": "held_out"},
        "3.png": {"split": "train"},
        "3_dog/a.png": {"caption": ""},
    }.items():
        assert web.patch(f"{API}/one/images/{images[name]}", json=change, headers=anyhow).status_code == 200
    first = frozen(web, "one")
    taken = web.get(f"{API}/one/versions/latest/{form}").content
    filled(web, station, "two", {f"again.{form.rpartition('.')[2]}": taken})
    told = web.get(f"{API}/two/ledger/summary").json()
    assert (told["images"], told["rejected"], told["warnings"]) == (IMAGES + 2, 0, [])
    marks = {one["image"]: one["split"] for one in web.get(f"{API}/two/images").json()["items"]}
    assert (marks[images["1.png"]], marks[images["3.png"]]) == ("held_out", "train")
    again = web.post(f"{API}/two/versions", json={"held_out_share": 0}).json()
    assert (again["digest"], again["held_out_images"]) == (first["digest"], first["held_out_images"])


@pytest.mark.slow
def test_what_its_folder_holds_out_is_held_out_of_every_copy(web: TestClient, station: Station) -> None:
    files = {f"{folder}/{n}.png": picture(n) for n, folder in enumerate(("train", "train", "train", "test", "test"))}
    files["test/metadata.jsonl"] = b'{"file_name": "3.png", "text": "a cat"}'
    filled(web, station, "one", files)
    first = web.post(f"{API}/one/versions", json={"held_out_share": 0, "accept_warnings": True}).json()
    assert (first["train_images"], first["held_out_images"]) == (3, 2)
    for name, form in {"two": "imagefolder.zip", "three": "parquet"}.items():
        taken = web.get(f"{API}/one/versions/1/{form}").content
        filled(web, station, name, {f"test.{form.rpartition('.')[2]}": taken})
        again = web.post(f"{API}/{name}/versions", json={"held_out_share": 0, "accept_warnings": True}).json()
        assert again["digest"] == first["digest"]


def test_two_versions_differ_in_what_was_changed_between_them(web: TestClient, station: Station) -> None:
    files = {f"{n}.png": picture(n) for n in range(4)} | {f"{n}.txt": b"a cat" for n in range(4)}
    filled(web, station, "one", files)
    frozen(web, "one")
    by_name = {one["name"]: one["image"] for one in web.get(f"{API}/one/images").json()["items"]}
    anyhow = {"If-Match": "*"}
    web.patch(f"{API}/one/images/{by_name['0.png']}", json={"removed": True}, headers=anyhow)
    web.patch(f"{API}/one/images/{by_name['1.png']}", json={"caption": "mine"}, headers=anyhow)
    filled(web, station, "one", {"9.png": picture(9), "9.txt": b"a cat"})
    frozen(web, "one")
    found = web.get(f"{API}/one/versions/2/diff?against=1").json()
    assert [row["name"] for row in found["added"]] == ["9.png"]
    assert [row["name"] for row in found["removed"]] == ["0.png"]
    (changed,) = found["caption_changed"]
    assert (changed["name"], changed["before"], changed["after"]) == ("1.png", "a cat", "mine")
    assert web.get(f"{API}/one/versions/2/diff?against=2").json()["same"] is True
    assert web.get(f"{API}/one/versions/2/diff?against=7").status_code == 404


def test_a_marked_image_stays_in_its_split_whatever_its_hash_says(web: TestClient, station: Station) -> None:
    files = {f"{n}.png": picture(n) for n in range(4)}
    filled(web, station, "one", files)
    identities = [one["image"] for one in web.get(f"{API}/one/images").json()["items"]]
    anyhow = {"If-Match": "*"}
    for image in identities[:3]:
        web.patch(f"{API}/one/images/{image}", json={"split": "held_out"}, headers=anyhow)
    kept = web.post(f"{API}/one/versions", json={"held_out_share": 0}).json()
    assert (kept["train_images"], kept["held_out_images"]) == (1, 3)
    web.patch(f"{API}/one/images/{identities[3]}", json={"split": "held_out"}, headers=anyhow)
    assert web.post(f"{API}/one/versions").json()["code"] == "empty_dataset"
    for image in identities:
        web.patch(f"{API}/one/images/{image}", json={"split": "train"}, headers=anyhow)
    assert web.post(f"{API}/one/versions", json={"held_out_share": 0.5}).json()["held_out_images"] == 0


def test_parquet_gives_the_digest_it_was_made_from_and_opens_with_images(
    web: TestClient, station: Station, tmp_path: Path
) -> None:
    files = {f"{n}.png": picture(n) for n in range(IMAGES)} | {f"{n}.txt": f"no {n}".encode() for n in range(IMAGES)}
    filled(web, station, "one", files | {"1_mask.png": picture(200)})
    first = frozen(web, "one")
    answer = web.get(f"{API}/one/versions/1/parquet")
    assert answer.status_code == 200
    (tmp_path / "one.parquet").write_bytes(answer.content)
    read = hugging_face.load_dataset(
        "parquet", data_files=str(tmp_path / "one.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert {row["image"].size for row in read} == {(32, 24)}
    assert {row["caption"] for row in read} == {f"no {n}" for n in range(IMAGES)}
    filled(web, station, "two", {"again.parquet": answer.content})
    assert frozen(web, "two")["digest"] == first["digest"]
