"""Data sets: a folder and a version's Parquet of the same content are the same data set."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contracts.dataset import COLUMNS
from contracts.failures import PatinaError
from trainer.data import read_dataset
from trainer.images import IdentityMemory


def picture(colour: tuple[int, int, int], mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (32, 24), colour).save(file, "PNG", **options)
    return file.getvalue()


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> None:
    defaults = {
        "mask": None, "caption": "", "concept": None, "repeats": 1, "split": "train",
        "original_width": 32, "original_height": 24, "source_name": "x.png",
    }  # fmt: skip
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {
        "image": image,
        "mask": image,
        "repeats": pa.int64(),
        "original_width": pa.int64(),
        "original_height": pa.int64(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    table = pa.Table.from_pylist([defaults | row for row in rows], schema=schema)
    pq.write_table(table, folder / "data.parquet", row_group_size=1)


@pytest.fixture
def memory(tmp_path: Path) -> IdentityMemory:
    return IdentityMemory(tmp_path / "memory" / "pictures.jsonl")


class TestReadDataset:
    def test_a_folder_and_parquet_of_one_content_agree(self, tmp_path: Path, memory: IdentityMemory) -> None:
        folder, version = tmp_path / "folder", tmp_path / "version"
        folder.mkdir()
        version.mkdir()
        colours = {"b": (1, 2, 3), "a": (9, 9, 9), "c": (200, 0, 0)}
        entries = []
        for name, colour in colours.items():
            (folder / f"{name}.png").write_bytes(picture(colour))
            entries.append(
                {"file_name": f"{name}.png", "text": f" a  {name}", "split": "held_out" if name == "c" else "train"}
            )
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
        write_parquet(
            version,
            [
                {
                    "image": {"bytes": picture(colour, compress_level=0), "path": None},
                    "caption": f"a {name}",
                    "split": "held_out" if name == "c" else "train",
                }
                for name, colour in reversed(colours.items())
            ],
        )
        first, second = read_dataset(folder, memory), read_dataset(version, memory)
        assert first.digest == second.digest
        assert [row.image for row in first.rows] == [row.image for row in second.rows]
        assert len(first.held_out) == 1
        assert Image.open(io.BytesIO(second.read(second.rows[0].image))).size == (32, 24)

    def test_repeats_make_a_row_several_samples(self, tmp_path: Path, memory: IdentityMemory) -> None:
        write_parquet(tmp_path, [{"image": {"bytes": picture((0, 0, 0)), "path": None}, "repeats": 3}])
        assert len(read_dataset(tmp_path, memory).samples) == 3

    def test_holds_out_a_share_by_content_when_nothing_says_which(self, tmp_path: Path, memory: IdentityMemory) -> None:
        for number in range(20):
            (tmp_path / f"{number}.png").write_bytes(picture((number, 0, 0)))
            (tmp_path / f"{number}.txt").write_text(f"number {number}")
        first = read_dataset(tmp_path, memory)
        assert (len(first.held_out), len(first.samples)) == (1, 19)
        assert first.held_out[0].caption.startswith("number")
        (tmp_path / "0.png").rename(tmp_path / "zero.png")
        (tmp_path / "0.txt").rename(tmp_path / "zero.txt")
        assert read_dataset(tmp_path, memory).held_out[0].image == first.held_out[0].image

    def test_names_every_problem(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "good.png").write_bytes(picture((0, 0, 0)))
        (tmp_path / "bad.webp").write_bytes(b"RIFF")
        lines = [
            '{"file_name": "gone.png", "text": "x"}',
            "[1, 2]",
            '{"file_name": "good.png", "split": "half", "repeats": "two"}',
        ]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
        with pytest.raises(PatinaError) as caught:
            read_dataset(tmp_path, memory)
        for word in ("gone.png", "line 2", "half", "two", "bad.webp"):
            assert word in caught.value.message

    def test_refuses_a_damaged_parquet_and_one_that_lacks_columns(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "data.parquet").write_bytes(b"PAR1 no")
        with pytest.raises(PatinaError, match="damaged"):
            read_dataset(tmp_path, memory)
        pq.write_table(pa.table({"image": ["x"]}), tmp_path / "data.parquet")
        with pytest.raises(PatinaError, match="lacks the columns mask, caption"):
            read_dataset(tmp_path, memory)

    def test_an_empty_folder_says_what_belongs_there(self, tmp_path: Path, memory: IdentityMemory) -> None:
        with pytest.raises(PatinaError) as caught:
            read_dataset(tmp_path, memory)
        assert caught.value.code == "empty_dataset"
        assert "metadata.jsonl" in caught.value.hint

    def test_counts_pictures_without_a_caption(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
        assert read_dataset(tmp_path, memory).without_caption == 1
