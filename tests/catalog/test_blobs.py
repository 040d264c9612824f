"""Blobs, on local files and on a store that is not one."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import pytest

from catalog.blobs import BlobStore, image_key, make_key, upload_key


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    root = (tmp_path / "blobs").as_uri() if request.param == "file" else f"memory://{secrets.token_hex(4)}"
    return BlobStore(root)


class TestBlobStore:
    def test_gives_back_what_was_put(self, store: BlobStore) -> None:
        store.put_bytes("a/b.bin", b"hello")
        with store.open("a/b.bin") as source:
            assert source.read() == b"hello"
        assert store.get_bytes("a/b.bin") == b"hello"
        assert store.exists("a/b.bin")
        assert store.size("a/b.bin") == 5

    def test_put_file_and_fetch_to_tell_the_hash_of_what_went_through(self, store: BlobStore, tmp_path: Path) -> None:
        data = bytes(range(256)) * 10_000
        (tmp_path / "in").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        assert store.put_file("w/x.safetensors", tmp_path / "in") == digest
        assert store.fetch_to("w/x.safetensors", tmp_path / "new" / "out") == digest
        assert (tmp_path / "new" / "out").read_bytes() == data

    def test_a_second_put_replaces_the_first(self, store: BlobStore) -> None:
        store.put_bytes("a", b"one")
        store.put_bytes("a", b"two")
        assert store.get_bytes("a") == b"two"

    def test_says_that_a_blob_is_not_there(self, store: BlobStore, tmp_path: Path) -> None:
        assert not store.exists("gone")
        for attempt in (store.open, store.size, store.get_bytes):
            with pytest.raises(FileNotFoundError):
                attempt("gone")
        with pytest.raises(FileNotFoundError):
            store.fetch_to("gone", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_deletes_once_and_twice(self, store: BlobStore) -> None:
        store.put_bytes("a/b", b"x")
        store.delete("a/b")
        store.delete("a/b")
        assert not store.exists("a/b")

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "A", "a b", ".hidden", "a/.x", "a\n", "-x", "ä"]
    )
    def test_refuses_keys_no_server_made(self, store: BlobStore, key: str) -> None:
        with pytest.raises(ValueError, match="not a blob key"):
            store.put_bytes(key, b"x")
        with pytest.raises(ValueError, match="not a blob key"):
            store.open(key)


class TestLocalStore:
    def test_leaves_no_temporary_file(self, tmp_path: Path) -> None:
        store = BlobStore(str(tmp_path))
        store.put_bytes("a/b", b"x")
        with pytest.raises(FileNotFoundError):
            store.put_file("a/c", tmp_path / "missing")
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]

    def test_does_not_follow_links_out_of_the_store(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "file").write_bytes(b"secret")
        root = tmp_path / "blobs"
        store = BlobStore(str(root))
        store.put_bytes("a/b", b"x")
        (root / "out").symlink_to(secret)
        (root / "a" / "link").symlink_to(secret / "file")
        with pytest.raises(ValueError, match="leads out"):
            store.open("out/file")
        with pytest.raises(OSError, match="symbolic link"):
            store.open("a/link")
        with pytest.raises(ValueError, match="leads out"):
            store.put_bytes("out/new", b"x")
        assert sorted(path.name for path in secret.iterdir()) == ["file"]

    def test_says_where_a_blob_is(self, tmp_path: Path) -> None:
        store = BlobStore(str(tmp_path))
        store.put_bytes("a/b", b"x")
        assert store.local_path("a/b") == tmp_path / "a" / "b"
        assert BlobStore("memory://elsewhere").local_path("a/b") is None


class TestKeys:
    def test_are_made_of_checked_parts(self) -> None:
        assert make_key("runs", "run_1", "w.safetensors") == "runs/run_1/w.safetensors"
        with pytest.raises(ValueError, match="not a blob key"):
            make_key("runs", "../x")

    def test_an_image_is_stored_once_for_each_owner(self) -> None:
        assert image_key("ada", "f" * 64) == image_key("ada", "f" * 64) != image_key("bob", "f" * 64)

    def test_uploads_never_share_a_key(self) -> None:
        assert upload_key("ada") != upload_key("ada")


class TestAge:
    def test_lists_what_is_below_a_prefix_with_its_size(self, store: BlobStore) -> None:
        for key in ("images/ada/a.png", "images/ada/b.png", "images/adam/c.png"):
            store.put_bytes(key, b"abc")
        found = sorted((blob.key, blob.bytes) for blob in store.listed("images/ada"))
        assert found == [("images/ada/a.png", 3), ("images/ada/b.png", 3)]
        assert list(store.listed("nothing")) == []
        assert all(blob.age_s < 3600 for blob in store.listed("images"))

    def test_only_what_nothing_has_touched_is_discarded(self, store: BlobStore) -> None:
        store.put_bytes("images/a", b"abc")
        assert not store.discard("images/a", older_than_s=3600)
        assert store.get_bytes("images/a") == b"abc"
        assert store.discard("images/a", older_than_s=-1)
        assert not store.exists("images/a")

    def test_a_blob_that_is_wanted_again_is_young_again(self, tmp_path: Path) -> None:
        store = BlobStore(str(tmp_path))
        store.put_once("images/a", b"abc")
        os.utime(tmp_path / "images" / "a", (1, 1))
        store.put_once("images/a", b"abc")
        assert not store.discard("images/a", older_than_s=3600)

    def test_temporary_files_of_writers_that_died_go(self, tmp_path: Path) -> None:
        store = BlobStore(str(tmp_path))
        (tmp_path / "images").mkdir()
        for name, age in ((".dead.png.abc", 1), (".alive.png.abc", None)):
            (tmp_path / "images" / name).write_bytes(b"half")
            if age is not None:
                os.utime(tmp_path / "images" / name, (age, age))
        assert list(store.listed("images", stale_s=3600)) == []
        assert [path.name for path in (tmp_path / "images").iterdir()] == [".alive.png.abc"]
