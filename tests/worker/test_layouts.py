"""The layouts people have, in a zip and loose: every picture finds its caption, and the ledger says how."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog.datasets import editing
from catalog.datasets import parquet as version_parquet
from catalog.datasets import service as datasets
from contracts.dataset import Split, VersionRow, version_digest
from tests.worker.conftest import OWNER, captions, fates, picture, upload, zipped
from trainer.data import read_dataset
from trainer.images import IdentityMemory
from worker import light
from worker.decode import Decoded, Decoder
from worker.doorbell import Shift
from worker.station import Station

Take = Callable[..., str]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture
def take(station: Station, decoder: Decoder) -> Take:
    """Upload files and have them read; gives the dataset's id."""

    def uploaded(files: dict[str, bytes], name: str = "pictures") -> str:
        dataset = upload(station, files, name)
        shift = Shift()
        while light.work(station, decoder, shift):
            pass
        return dataset

    return uploaded


def frozen(station: Station, dataset: str, **wanted: Any) -> dict[str, VersionRow]:
    with station.database.session() as session:
        version = datasets.freeze(session, OWNER, dataset, **wanted).version
        contents = datasets.version_contents(session, OWNER, version.id)
        return {entry.row.source_name: entry.row for entry in contents}


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def table(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


CSV = b"file_name,mood,caption\n1.png,sad,one\n2.png,glad,two\n"
PARQUET = table([{"file_name": f"{n}.png", "caption": text} for n, text in ((1, "one"), (2, "two"))])
JSONL = b'{"file_name": "1.png", "caption": "one"}\n{"file_name": "2.png", "caption": "two"}\n'
PAIR = {"1.png": picture(1), "2.png": picture(2)}
LAYOUTS: dict[str, dict[str, bytes]] = {
    "sidecars": {"1.txt": b"one", "2.caption": b"two"},
    "metadata.jsonl": {"metadata.jsonl": JSONL},
    "metadata.csv": {"metadata.csv": CSV},
    "metadata.parquet": {"metadata.parquet": PARQUET},
    "kohya's json": {"meta_cap.json": b'{"1": {"caption": "one"}, "2.png": {"tags": "two"}}'},
}


class TestPictureFiles:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("packed", [False, True])
    def test_find_their_captions(self, station: Station, take: Take, layout: str, packed: bool) -> None:
        files = {f"train/{name}": data for name, data in (PAIR | LAYOUTS[layout]).items()}
        dataset = take({"set.zip": zipped(files)} if packed else files)
        assert captions(station, dataset) == {"train/1.png": "one", "train/2.png": "two"}
        assert {fate for fate, _ in fates(station, dataset).values()} == {"used"}

    @pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
    def test_the_column_that_was_taken_is_said(self, station: Station, take: Take, name: str) -> None:
        dataset = take(PAIR | LAYOUTS[name])
        assert fates(station, dataset)[name] == ("used", "captions from 'caption'")

    def test_metadata_at_the_top_names_pictures_below(self, station: Station, take: Take) -> None:
        dataset = take({"set.zip": zipped({"train/1.png": picture(1), "train/2.png": picture(2), "metadata.csv": CSV})})
        assert captions(station, dataset) == {"train/1.png": "one", "train/2.png": "two"}


class TestKohyaFolders:
    def test_repeats_and_class_reach_the_version(self, station: Station, take: Take) -> None:
        files = {"img/10_sks dog/1.png": picture(1), "img/10_sks dog/1.txt": b"a dog", "img/2_cat/2.png": picture(2)}
        dataset = take({"set.zip": zipped(files)})
        rows = frozen(station, dataset)
        assert [(row.caption, row.concept, row.repeats) for _, row in sorted(rows.items())] == [
            ("a dog", "sks dog", 10),
            ("cat", "cat", 2),
        ]


SPLIT_FOLDERS = {
    "train/1.png": picture(1),
    "train/metadata.jsonl": b'{"file_name": "1.png", "text": "one"}',
    "test/2.png": picture(2),
    "test/3.png": picture(3),
    "test/metadata.jsonl": b'{"file_name": "2.png", "text": "two"}\n'
    b'{"file_name": "3.png", "text": "three", "split": "train"}',
    "val/4.png": picture(4),
    "val/4.txt": b"four",
    "cats/test/5.png": picture(5),
}


class TestFoldersToMeasureOn:
    @pytest.mark.parametrize("packed", [False, True])
    def test_are_held_out_by_server_and_trainer_alike(
        self, station: Station, take: Take, packed: bool, tmp_path: Path
    ) -> None:
        dataset = take({"set.zip": zipped(SPLIT_FOLDERS)} if packed else SPLIT_FOLDERS)
        rows = frozen(station, dataset, held_out_share=0)
        assert {name for name, row in rows.items() if row.split is Split.HELD_OUT} == {"test/2.png", "val/4.png"}
        assert "held out" in str(fates(station, dataset)["test/2.png"][1])
        for name, data in SPLIT_FOLDERS.items():
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(data)
        read = read_dataset(tmp_path / "folder", IdentityMemory(tmp_path / "pictures.jsonl"))
        assert version_digest(rows.values()) == read.digest

    @pytest.mark.parametrize("first", ["train/a.png", "validation/a.png"])
    def test_hold_a_picture_out_that_lies_elsewhere_as_well(self, station: Station, take: Take, first: str) -> None:
        other = {"train/a.png": "validation/a.png"}.get(first, "train/a.png")
        take({first: picture(1), "b.png": picture(2)})
        rows = frozen(station, take({other: picture(1)}), held_out_share=0)
        assert {name: row.split for name, row in rows.items()} == {first: Split.HELD_OUT, "b.png": Split.TRAIN}

    def test_are_weaker_than_what_a_person_chose(self, station: Station, take: Take) -> None:
        dataset = take({"test/a.png": picture(1), "b.png": picture(2)})
        with station.database.session() as session:
            image = next(one.image for one in frozen(station, dataset).values() if one.source_name == "test/a.png")
            editing.mark_image(session, OWNER, dataset, image, Split.TRAIN, None)
        assert {row.split for row in frozen(station, dataset, held_out_share=0).values()} == {Split.TRAIN}

    def test_may_be_tables_as_the_hub_names_them(self, station: Station, take: Take) -> None:
        tables = {
            f"data/{part}-00000-of-00001.parquet": table([{"image": {"bytes": picture(seed), "path": None}, **told}])
            for seed, (part, told) in enumerate({"train": {}, "test": {}, "validation": {"split": "train"}}.items())
        }
        rows = frozen(station, take(tables), held_out_share=0)
        held_out = [name for name, row in rows.items() if row.split is Split.HELD_OUT]
        assert held_out == ["data/test-00000-of-00001.parquet:1/image"]


class TestMasks:
    def test_a_mask_stays_with_its_picture(self, station: Station, decoder: Decoder, take: Take) -> None:
        dataset = take({"a.png": picture(1), "a_mask.png": picture(9), "b.png": picture(2), "c_mask.jpg": picture(3)})
        mask = decoder.decode(picture(9))
        assert isinstance(mask, Decoded)
        rows = frozen(station, dataset)
        assert (rows["a.png"].mask, rows["b.png"].mask) == (mask.identity, None)
        assert len(rows) == 2
        assert fates(station, dataset)["c_mask.jpg"][0] == "rejected"

    def test_what_is_transparent_of_a_mask_is_masked_out(self, station: Station, take: Take) -> None:
        on_black, on_nothing = Image.new("RGB", (32, 32)), Image.new("RGBA", (32, 32), (255, 255, 255, 0))
        for image in (on_black, on_nothing):
            image.paste("white", (0, 0, 16, 32))
        files = {"a.png": Image.new("RGB", (32, 32), "red"), "b.png": Image.new("RGB", (32, 32), "blue")}
        files |= {"a_mask.png": on_black, "b_mask.png": on_nothing}
        dataset = take({name: png(image) for name, image in files.items()})
        rows = frozen(station, dataset)
        assert rows["a.png"].mask == rows["b.png"].mask is not None
        assert "laid on black" in str(fates(station, dataset)["b_mask.png"][1])


class TestTables:
    def test_every_row_is_a_picture(self, station: Station, take: Take) -> None:
        rows = [
            {"image": {"bytes": picture(1), "path": "a/1.png"}, "prompt": "one"},
            {"image": {"bytes": picture(2), "path": None}, "prompt": "two"},
            {"image": {"bytes": None, "path": "3.png"}, "prompt": "three"},
            {"image": {"bytes": b"no picture", "path": "4.png"}, "prompt": "four"},
        ]
        dataset = take({"train.parquet": table(rows)})
        assert captions(station, dataset) == {"train.parquet:1/1.png": "one", "train.parquet:2/image": "two"}
        ledger = fates(station, dataset)
        assert ledger["train.parquet"] == ("used", "pictures from 'image', captions from 'prompt'")
        assert "holds no picture" in str(ledger["train.parquet:3/3.png"][1])
        assert ledger["train.parquet:4/4.png"][0] == "rejected"

    def test_ones_name_says_nothing_of_repeats(self, station: Station, take: Take) -> None:
        rows = frozen(station, take({"10_cats.parquet": table([{"image": {"bytes": picture(1), "path": "x.png"}}])}))
        row = rows["10_cats.parquet:1/x.png"]
        assert (row.repeats, row.concept, row.caption) == (1, None, "")

    def test_one_inside_a_zip_is_read_as_well(self, station: Station, take: Take) -> None:
        inner = table([{"image": {"bytes": picture(1), "path": "1.png"}, "text": "one"}])
        dataset = take({"set.zip": zipped({"data/train.parquet": inner})})
        assert captions(station, dataset) == {"data/train.parquet:1/1.png": "one"}

    def test_one_without_pictures_says_what_is_missing(self, station: Station, take: Take) -> None:
        dataset = take({"train.parquet": table([{"text": "one"}])})
        fate, reason = fates(station, dataset)["train.parquet"]
        assert fate == "rejected"
        assert "no column of pictures" in str(reason)

    def test_a_version_offered_again_is_the_same_content(self, station: Station, take: Take, tmp_path: Any) -> None:
        files = {"3_dog/1.png": picture(1), "3_dog/1.txt": b"one", "3_dog/1_mask.png": picture(9)}
        files |= {"2.png": picture(2), "2.txt": b"two"}
        first = take(files, "first")
        with station.database.session() as session:
            version = datasets.freeze(session, OWNER, first).version
            contents = datasets.version_contents(session, OWNER, version.id)
        version_parquet.write(contents, station.blobs, tmp_path / "v.parquet")
        again = take({"v.parquet": (tmp_path / "v.parquet").read_bytes()}, "again")
        with station.database.session() as session:
            assert datasets.freeze(session, OWNER, again).version.digest == version.digest


class TestOthers:
    @pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.7z"])
    def test_other_archives_are_told_to_come_as_zip(self, station: Station, take: Take, name: str) -> None:
        dataset = take({name: b"anything", "more.zip": zipped({f"inner/{name}": b"anything"})})
        ledger = fates(station, dataset)
        assert "pack the files as a .zip" in str(ledger[name][1])
        assert "pack the files as a .zip" in str(ledger[f"inner/{name}"][1])


class TestStoring:
    def test_what_was_done_to_a_picture_is_in_the_ledger(self, station: Station, take: Take) -> None:
        stream = io.BytesIO()
        Image.new("RGB", (3000, 1500), "red").save(stream, "PNG", compress_level=1)
        dataset = take({"big.png": stream.getvalue(), "big.txt": b"red"})
        assert fates(station, dataset)["big.png"] == ("used", "downscaled from 3000x1500 to 2828x1414")
