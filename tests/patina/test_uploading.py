from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from contracts.failures import FailureCode, InvalidInput, PatinaError
from patina import uploading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a.png",
        "a.txt",
        "sub/B.JPG",
        "metadata.jsonl",
        "LICENSE",
        ".DS_Store",
        "__MACOSX/a.png",
        "c.caption",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def refuse(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """Have one file not be opened, root or not."""
    opened = Path.open

    def open_others(path: Path, *arguments: Any) -> Any:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", open_others)


class TestFind:
    def test_images_and_captions_are_sent_and_the_rest_is_named(self, folder: Path) -> None:
        found = uploading.find(folder)
        assert [name for name, _ in found.sent] == ["a.png", "a.txt", "c.caption", "metadata.jsonl", "sub/B.JPG"]
        assert list(found.left_out) == ["LICENSE"]

    def test_pictures_that_are_hidden_are_left_out_by_name(self, folder: Path) -> None:
        for name in (".b.jpg", ".c/c.jpg", ".git/index", "._a.png"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
        found = uploading.find(folder)
        hidden = {name for name, reason in found.left_out.items() if reason == uploading.HIDDEN}
        assert hidden == {".b.jpg", ".c/c.jpg"}
        assert not hidden & {name for name, _ in found.sent}

    def test_a_folder_of_other_pictures_alone_says_what_they_are(self, tmp_path: Path) -> None:
        for n in range(7):
            (tmp_path / f"{n}.gif").write_bytes(b"GIF89a")
        (tmp_path / ".hidden.png").write_bytes(b"x")
        with pytest.raises(PatinaError) as refused:
            uploading.find(tmp_path)
        assert "7 (a picture in a format that is not taken; convert it to one of .png" in refused.value.message
        assert "0.gif, 1.gif, 2.gif, 3.gif, 4.gif, … and 2 more" in refused.value.message
        assert f"1 ({uploading.HIDDEN}): .hidden.png" in refused.value.message

    def test_what_cannot_be_sent_is_left_out_by_name_and_costs_no_other(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
        (folder / "closed.png").write_bytes(b"x")
        (folder / "dead.png").symlink_to(folder / "nowhere.png")
        (folder / "loop.png").symlink_to(folder / "loop.png")
        (folder / "good.png").symlink_to(folder / "a.png")
        (folder / "linked").symlink_to(folder / "sub")
        os.mkfifo(folder / "pipe.png")
        refuse(monkeypatch, folder / "closed.png")
        found = uploading.find(folder)
        assert {name: reason for name, reason in found.left_out.items() if name != "LICENSE"} == {
            "caf\\xe9.png": uploading.NOT_UTF_8,
            "closed.png": "it cannot be read: Permission denied",
            "dead.png": uploading.DEAD_LINK,
            "loop.png": uploading.DEAD_LINK,
            "linked": uploading.LINKED_FOLDER,
        }
        assert [name for name, _ in found.sent if name.endswith("png")] == ["a.png", "good.png"]

    def test_one_file_that_cannot_be_sent_is_refused_by_name(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unwritten = folder / os.fsdecode(b"caf\xe9.png")
        unwritten.write_bytes(b"x")
        refuse(monkeypatch, folder / "a.png")
        with pytest.raises(InvalidInput, match=r"a\.png is not sent: it cannot be read: Permission denied"):
            uploading.find(folder / "a.png")
        with pytest.raises(InvalidInput, match=r"caf\\xe9\.png is not sent: its name"):
            uploading.find(unwritten)

    def test_a_folder_that_says_how_its_pictures_count_keeps_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "koh" / "10_sks dog"
        folder.mkdir(parents=True)
        for name in ("1.png", "1.txt", "notes.doc"):
            (folder / name).write_bytes(b"x")
        monkeypatch.chdir(folder)
        for source in (folder, Path()):
            found = uploading.find(source)
            assert [name for name, _ in found.sent] == ["10_sks dog/1.png", "10_sks dog/1.txt"]
            assert list(found.left_out) == ["10_sks dog/notes.doc"]
        assert [name for name, _ in uploading.find(folder.parent).sent] == ["10_sks dog/1.png", "10_sks dog/1.txt"]

    def test_a_zip_is_sent_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(b"no zip at all")
        assert uploading.find(tmp_path / "x.zip").sent == [("x.zip", tmp_path / "x.zip")]

    def test_what_is_not_there_and_what_holds_no_image_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PatinaError) as missing:
            uploading.find(tmp_path / "nothing")
        (tmp_path / "a.txt").write_text("a caption for no image")
        with pytest.raises(PatinaError) as empty:
            uploading.find(tmp_path)
        assert [e.value.code for e in (missing, empty)] == [FailureCode.NOT_FOUND, FailureCode.EMPTY_DATASET]


class TestPortions:
    def test_every_file_goes_once_and_metadata_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploading, "PORTION_FILES", 2)
        portions = [[name for name, _ in p] for p in uploading.portions(uploading.find(folder).sent)]
        assert portions == [["metadata.jsonl"], ["a.png", "a.txt"], ["c.caption", "sub/B.JPG"]]

    def test_a_picture_goes_with_its_caption_and_its_mask(self, tmp_path: Path) -> None:
        names = [f"{n:03}{end}" for n in range(200) for end in (".png", ".txt", "_mask.png")]
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        portions = [[name for name, _ in p] for p in uploading.portions(uploading.find(tmp_path).sent)]
        assert sorted(name for portion in portions for name in portion) == sorted(names)
        assert [len({name[:3] for name in portion}) * 3 for portion in portions] == [len(one) for one in portions]
        assert max(map(len, portions)) <= uploading.PORTION_FILES

    def test_no_portion_is_larger_than_its_limit_unless_one_picture_is(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploading, "PORTION_BYTES", 11)
        (folder / "a.png").write_bytes(b"x" * 50)
        sizes = [
            sum(p.stat().st_size for _, p in portion) for portion in uploading.portions(uploading.find(folder).sent)
        ]
        assert sizes == [5, 55, 10]
