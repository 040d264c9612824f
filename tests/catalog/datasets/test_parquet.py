"""A version's Parquet file."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog.blobs import BlobStore
from catalog.datasets import parquet
from catalog.datasets.versions import VersionImage
from contracts.dataset import COLUMNS, Split, VersionRow
from datasets import load_dataset


def _contents(blobs: BlobStore, count: int = 3) -> list[VersionImage]:
    contents = []
    for index in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8 + index, 8), (index * 40, 0, 0)).save(buffer, "PNG")
        blobs.put_bytes(f"images/{index}.png", buffer.getvalue())
        row = VersionRow(
            image=f"{index:064x}",
            caption=f"caption {index}",
            split=Split.HELD_OUT if index == 1 else Split.TRAIN,
            original_width=8 + index,
            original_height=8,
            source_name=f"{index}.jpg",
        )
        contents.append(VersionImage(row, f"images/{index}.png"))
    return contents


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


class TestWrite:
    def test_makes_what_hugging_face_datasets_reads_with_images_decoded(self, blobs: BlobStore, tmp_path: Path) -> None:
        path = tmp_path / "version" / "data.parquet"
        parquet.write(_contents(blobs), blobs, path)
        rows = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert tuple(rows.column_names) == COLUMNS
        assert [row["image"].size for row in rows] == [(8, 8), (9, 8), (10, 8)]
        assert rows[2]["image"].getpixel((0, 0)) == (80, 0, 0)
        assert [row["caption"] for row in rows] == ["caption 0", "caption 1", "caption 2"]
        assert [row["split"] for row in rows] == ["train", "held_out", "train"]
        assert rows[0]["mask"] is None
        assert rows[0]["concept"] is None

    def test_equal_contents_give_equal_bytes(self, blobs: BlobStore, tmp_path: Path) -> None:
        contents = _contents(blobs)
        for name in ("one", "two"):
            parquet.write(contents, blobs, tmp_path / name)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_names_each_image_by_its_identity(self, blobs: BlobStore, tmp_path: Path) -> None:
        parquet.write(_contents(blobs, 1), blobs, tmp_path / "x")
        table = pq.read_table(tmp_path / "x")
        assert table.column("image")[0].as_py()["path"] == f"{0:064x}.png"

    def test_holds_a_few_images_in_memory_at_once(self, blobs: BlobStore, tmp_path: Path) -> None:
        parquet.write(_contents(blobs, 3) * 50, blobs, tmp_path / "x")
        file = pq.ParquetFile(tmp_path / "x")
        assert file.metadata.num_rows == 150
        assert file.metadata.num_row_groups == 3

    def test_leaves_nothing_when_an_image_is_missing(self, blobs: BlobStore, tmp_path: Path) -> None:
        contents = _contents(blobs)
        blobs.delete("images/2.png")
        with pytest.raises(FileNotFoundError):
            parquet.write(contents, blobs, tmp_path / "out" / "x")
        assert list((tmp_path / "out").iterdir()) == []
