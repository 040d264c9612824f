"""Data sets: a folder and a version's Parquet of the same content are the same data set."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog.datasets.versions import VersionImage, assemble
from contracts.captions import clean_caption
from contracts.dataset import (
    COLUMNS,
    DEFAULT_HELD_OUT_SHARE,
    Split,
    VersionRow,
    choose_held_out,
    image_identity,
    version_digest,
)
from contracts.failures import PatinaError
from trainer.data import read_dataset
from trainer.images import IdentityMemory
from trainer.mixed import read_run_data
from trainer.recipe import DataSource
from worker.captions import decoded_text
from worker.decode_child import decode as decode_upload
from worker.metadata import read_metadata


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
        assert [row.split for row in first.rows].count(Split.HELD_OUT) == 1
        assert Image.open(io.BytesIO(second.read(second.rows[0].image))).size == (32, 24)

    def test_captions_of_files_in_capitals_are_read(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "IMG.JPG").write_bytes(picture((9, 9, 9)))
        (tmp_path / "IMG.TXT").write_text("a cat")
        assert [row.caption for row in read_dataset(tmp_path, memory).rows] == ["a cat"]

    def test_captions_in_a_file_that_is_not_read_are_not_dropped_in_silence(
        self, tmp_path: Path, memory: IdentityMemory
    ) -> None:
        (tmp_path / "a.png").write_bytes(picture((9, 9, 9)))
        (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a cat\n")
        with pytest.raises(PatinaError, match=r"metadata\.csv is not read from a folder: make it metadata\.jsonl"):
            read_dataset(tmp_path, memory)

    def test_what_the_system_says_of_a_file_is_not_called_damage(
        self, tmp_path: Path, memory: IdentityMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.png").write_bytes(picture((9, 9, 9)))
        (tmp_path / "b.png").write_bytes(b"no picture")
        read_bytes = Path.read_bytes

        def reading(path: Path) -> bytes:
            if path.name == "a.png":
                raise PermissionError(errno.EACCES, "Permission denied")
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", reading)
        with pytest.raises(PatinaError) as caught:
            read_dataset(tmp_path, memory)
        assert "a.png cannot be read (Permission denied); b.png is damaged or no PNG" in caught.value.message

    def test_a_memory_that_cannot_be_written_costs_nothing_but_time(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(picture((9, 9, 9)))
        (tmp_path / "file").touch()
        assert len(read_dataset(tmp_path, IdentityMemory(tmp_path / "file" / "pictures.jsonl")).rows) == 1

    def test_holds_out_a_share_by_content_when_nothing_says_which(self, tmp_path: Path, memory: IdentityMemory) -> None:
        for number in range(20):
            (tmp_path / f"{number}.png").write_bytes(picture((number, 0, 0)))
            (tmp_path / f"{number}.txt").write_text(f"number {number}")
        first = read_dataset(tmp_path, memory)
        images = [row.image for row in first.rows]
        held_out = [row for row in first.rows if row.split is Split.HELD_OUT]
        assert {row.image for row in held_out} == choose_held_out(images, DEFAULT_HELD_OUT_SHARE)
        assert len(first.rows) == 20
        assert held_out[0].caption.startswith("number")
        (tmp_path / "0.png").rename(tmp_path / "zero.png")
        (tmp_path / "0.txt").rename(tmp_path / "zero.txt")
        again = read_dataset(tmp_path, memory)
        assert [(row.image, row.split) for row in again.rows] == [(row.image, row.split) for row in first.rows]

    def test_holds_out_what_lies_in_a_folder_to_measure_on_unless_its_metadata_says_otherwise(
        self, tmp_path: Path, memory: IdentityMemory
    ) -> None:
        for number, name in enumerate(("train/a", "valid/b", "Test/c", "Test/d", "cats/test/e")):
            (tmp_path / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"{name}.png").write_bytes(picture((number, 0, 0)))
        (tmp_path / "Test" / "metadata.jsonl").write_text('{"file_name": "d.png", "text": "d", "split": "train"}')
        found = read_dataset(tmp_path, memory)
        assert {row.source_name for row in found.rows if row.split is Split.HELD_OUT} == {"valid/b.png", "Test/c.png"}

    def test_a_folder_and_the_version_frozen_from_its_upload_are_the_same_data_set(
        self, tmp_path: Path, memory: IdentityMemory
    ) -> None:
        lines = "\n".join(
            json.dumps({"file_name": f"{number}.png", "text": f"number\u2028 {number}"}, ensure_ascii=False)
            for number in range(20)
        )
        (tmp_path / "metadata.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
        for number in range(40):
            (tmp_path / f"{number}.png").write_bytes(picture((number, 0, 0, 9 * number % 256), "RGBA"))
            if number >= 20:
                (tmp_path / f"{number}.txt").write_text(f"number {number}\n", encoding="utf-8-sig")
        metadata = read_metadata("metadata.jsonl", (tmp_path / "metadata.jsonl").read_bytes())
        uploaded = {line.file_name: line.text or "" for line in metadata.lines}
        for sidecar in tmp_path.glob("*.txt"):
            uploaded[f"{sidecar.stem}.png"] = decoded_text(sidecar.read_bytes()) or ""
        frozen = assemble(
            [_uploaded(tmp_path / name, clean_caption(text)) for name, text in uploaded.items()], DEFAULT_HELD_OUT_SHARE
        )
        found = read_dataset(tmp_path, memory)
        assert [row.caption for row in found.rows] == [entry.row.caption for entry in frozen]
        assert found.digest == version_digest(entry.row for entry in frozen)
        assert Split.HELD_OUT in {row.split for row in found.rows}

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

    def test_refuses_more_repeats_than_an_upload_takes(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x", "repeats": 1000000000}')
        with pytest.raises(PatinaError, match="repeats 1000000000; it is a whole number from 1 to 1000"):
            read_dataset(tmp_path, memory)

    def test_captions_come_from_the_column_an_upload_would_take(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
        (tmp_path / "metadata.jsonl").write_text(
            '{"file_name": "a.png", "concept": "thing", "prompt": "a black square"}'
        )
        row = read_dataset(tmp_path, memory).rows[0]
        assert (row.caption, row.concept) == ("a black square", "thing")

    def test_refuses_metadata_without_a_column_of_captions(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": 3, "score": 0.5}')
        with pytest.raises(PatinaError, match=r"no column of captions \(it has label, score\): name the one"):
            read_dataset(tmp_path, memory)

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

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
    def test_a_caption_that_is_no_text_is_a_problem_not_a_guess(
        self, tmp_path: Path, memory: IdentityMemory, encoding: str
    ) -> None:
        (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
        (tmp_path / "a.txt").write_bytes("Ähre".encode(encoding))
        with pytest.raises(PatinaError, match=r"a\.txt is not UTF-8 text"):
            read_dataset(tmp_path, memory)


class TestReadRunData:
    def test_repeats_and_weight_make_a_row_several_samples(self, tmp_path: Path, memory: IdentityMemory) -> None:
        write_parquet(tmp_path, [{"image": {"bytes": picture((0, 0, 0)), "path": None}, "repeats": 3}])
        found = read_run_data([DataSource(path=tmp_path, weight=2)], memory)
        assert len(found.mixture.samples.rows) == 6

    def test_one_data_set_is_named_by_its_own_digest(self, tmp_path: Path, memory: IdentityMemory) -> None:
        (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
        found = read_run_data([DataSource(path=tmp_path)], memory)
        assert (found.mixture.digest, found.mixture.named_shares) == (read_dataset(tmp_path, memory).digest, ())

    def test_overlapping_data_sets_give_each_its_caption_and_never_train_on_what_one_holds_out(
        self, tmp_path: Path, memory: IdentityMemory
    ) -> None:
        colours = {"both": (0, 0, 0), "kept": (9, 9, 9), "own": (200, 0, 0)}
        for name, entries in {"a": {"both": "train", "kept": "held_out"}, "b": dict.fromkeys(colours, "train")}.items():
            (tmp_path / name).mkdir()
            lines = [{"file_name": f"{one}.png", "text": f"{one} of {name}", "split": entries[one]} for one in entries]
            (tmp_path / name / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
            for one in entries:
                (tmp_path / name / f"{one}.png").write_bytes(picture(colours[one]))
        sources = [DataSource(path=tmp_path / "a"), DataSource(path=tmp_path / "b", weight=2)]
        found, turned = read_run_data(sources, memory), read_run_data(sources[::-1], memory)
        seen = sorted(row.caption for row in found.mixture.samples.rows)
        assert seen == ["both of a", "both of b", "both of b", "own of b", "own of b"]
        assert [row.caption for row in found.mixture.held_out] == ["kept of a"]
        assert found.mixture == turned.mixture
        for row in found.mixture.rows:
            assert memory.identify(found.read(row.image)).image == row.image

    def test_refuses_data_sets_that_leave_nothing_to_train_on(self, tmp_path: Path, memory: IdentityMemory) -> None:
        for name, held_out in {"a": 0, "b": 1}.items():
            (tmp_path / name).mkdir()
            rows = [
                {"image": {"bytes": picture((number, 0, 0)), "path": None}, "split": split}
                for number, split in enumerate(["held_out", "train"] if held_out else ["train", "held_out"])
            ]
            write_parquet(tmp_path / name, rows)
        with pytest.raises(PatinaError, match="none is left to train on"):
            read_run_data([DataSource(path=tmp_path / "a"), DataSource(path=tmp_path / "b")], memory)


def _uploaded(file: Path, caption: str) -> VersionImage:
    image = decode_upload(file.read_bytes()).image
    identity = image_identity(image.width, image.height, image.tobytes())
    row = VersionRow(
        image=identity,
        caption=caption,
        original_width=image.width,
        original_height=image.height,
        source_name=file.name,
    )
    return VersionImage(row, identity)
