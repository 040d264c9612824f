"""Files by key: images, weights, uploads, logs. Knows nothing about what they hold or who owns them.

Keys are made by the server and never by a user. Locally a file is written under a temporary name, synced and
renamed; elsewhere (S3) fsspec's upload becomes visible whole. Both are reached through the same methods.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import fsspec

KEY = re.compile(r"^[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*$")
MAX_KEY_CHARACTERS = 512
CHUNK_BYTES = 1024 * 1024
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the `OSError` that a store without room raises."""


def make_key(*parts: str) -> str:
    """Join parts to a key; an owner or an id is one part.

    Raises:
        ValueError: the result is not a key (a part was not made by the server).
    """
    key = "/".join(parts)
    if len(key) > MAX_KEY_CHARACTERS or not KEY.fullmatch(key):
        raise ValueError(f"not a blob key: {key!r}")
    return key


def upload_key(owner: str) -> str:
    """A fresh key for an uploaded file; its own name is kept in the ledger alone."""
    return make_key("uploads", owner, secrets.token_hex(16))


def image_key(owner: str, sha256: str) -> str:
    """Where an image of this hash lies for its owner; the same image is stored once."""
    return make_key("images", owner, sha256[:2], f"{sha256}.png")


class Blob(NamedTuple):
    """A blob in the store, and how long ago it was written or touched."""

    key: str
    bytes: int
    age_s: float


class BlobStore:
    """Blobs under one root.

    Args:
        url: ``file:///folder``, a plain path, or any address fsspec reads such as ``s3://bucket/prefix``.
    """

    def __init__(self, url: str) -> None:
        # A listing that is remembered would hide what other processes store after it.
        self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
        self._local = Path(root).resolve() if _is_local(self._fs) else None
        self._root = root.rstrip("/")

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store ``data``; an earlier blob of this key is replaced whole."""
        if self._local is None:
            self._fs.pipe_file(self._remote(key), data)
            return
        target = self._path(key, make_parent=True)
        with _open_new(target) as (file, temporary):
            file.write(data)
            _settle(file, temporary, target)

    def put_once(self, key: str, data: bytes) -> None:
        """Store ``data`` under a key that names its content; one that is there is kept, and is young again.

        Whoever is about to refer to a blob calls this, so that the collector does not take it meanwhile.
        """
        if self._local is not None:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._path(key))
                return
        self.put_bytes(key, data)

    def put_file(self, key: str, path: Path) -> str:
        """Store a copy of a file and return the sha256 of the bytes that were stored."""
        with path.open("rb") as source:
            return self.put_stream(key, _chunks(source))

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> str:
        """Store bytes that come in parts and return their sha256; when ``chunks`` fails, nothing is there."""
        hasher = hashlib.sha256()
        if self._local is None:
            sink = self._fs.open(self._remote(key), "wb")
            try:
                _write(chunks, sink, hasher)
            except BaseException:
                # Closing would make what has come so far a blob.
                with contextlib.suppress(Exception):
                    sink.discard()
                    sink.closed = True
                raise
            sink.close()
            return hasher.hexdigest()
        target = self._path(key, make_parent=True)
        with _open_new(target) as (file, temporary):
            _write(chunks, file, hasher)
            _settle(file, temporary, target)
        return hasher.hexdigest()

    def open(self, key: str) -> IO[bytes]:
        """Open for reading.

        Raises:
            FileNotFoundError: there is no such blob.
        """
        if self._local is None:
            return cast(IO[bytes], self._fs.open(self._remote(key), "rb"))
        return os.fdopen(os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW), "rb")

    def get_bytes(self, key: str) -> bytes:
        """The whole blob; for small ones."""
        with self.open(key) as source:
            return source.read()

    def fetch_to(self, key: str, path: Path) -> str:
        """Copy a blob to a file, which appears whole or not at all; returns its sha256."""
        hasher = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.open(key) as source, _open_new(path) as (file, temporary):
            _write(_chunks(source), file, hasher)
            _settle(file, temporary, path)
        return hasher.hexdigest()

    def local_path(self, key: str) -> Path | None:
        """The blob as a file on this machine, when the store is one; None for object storage."""
        return None if self._local is None else self._path(key)

    def exists(self, key: str) -> bool:
        """Whether there is such a blob."""
        if self._local is None:
            return bool(self._fs.exists(self._remote(key)))
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        """Bytes.

        Raises:
            FileNotFoundError: there is no such blob.
        """
        if self._local is None:
            return int(self._fs.size(self._remote(key)))
        return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens when it is not there."""
        if self._local is not None:
            self._path(key).unlink(missing_ok=True)
        elif self._fs.exists(self._remote(key)):
            self._fs.rm_file(self._remote(key))

    def listed(self, prefix: str, stale_s: float | None = None) -> Iterator[Blob]:
        """Every blob whose key begins with the parts of ``prefix``.

        ``stale_s`` removes temporary files of writers that died that long ago.
        """
        now = time.time()
        if self._local is None:
            self._fs.invalidate_cache()
            root = f"{self._root}/{make_key(prefix)}"
            found = self._fs.find(root, detail=True) if self._fs.exists(root) else {}
            for path, about in found.items():
                changed = about.get("LastModified") or about["created"]
                changed = changed if isinstance(changed, float) else changed.timestamp()
                yield Blob(path.rpartition(f"{self._root}/")[2], int(about["size"]), now - changed)
            return
        for path in self._path(prefix).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                about = path.lstat()
                if not stat.S_ISREG(about.st_mode):
                    continue
                if not path.name.startswith("."):
                    yield Blob(path.relative_to(self._local).as_posix(), about.st_size, now - about.st_mtime)
                elif stale_s is not None and now - about.st_mtime > stale_s:
                    path.unlink()

    def discard(self, key: str, older_than_s: float) -> bool:
        """Remove a blob unless it was written or touched within ``older_than_s``; whether it is gone."""
        if self._local is None:
            if any(blob.age_s <= older_than_s for blob in self.listed(key)):
                return False
            self.delete(key)
            return True
        path = self._path(key)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        # Looked at under its new name: nobody can touch it any more, and who wants it writes it anew.
        if time.time() - aside.stat().st_mtime <= older_than_s:
            aside.rename(path)
            return False
        aside.unlink()
        return True

    def free_bytes(self) -> int | None:
        """Room left on the disk the store is on; None for object storage, which has no end."""
        if self._local is None:
            return None
        self._local.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._local).free

    def _remote(self, key: str) -> str:
        return f"{self._root}/{make_key(key)}"

    def _path(self, key: str, make_parent: bool = False) -> Path:
        assert self._local is not None
        path = self._local / make_key(key)
        if make_parent:
            path.parent.mkdir(parents=True, exist_ok=True)
        # A link planted inside the store must not lead outside it.
        if not path.parent.resolve().is_relative_to(self._local):
            raise ValueError(f"blob key leads out of the store: {key!r}")
        return path


class _open_new:
    """A new file beside its target, removed again unless it was renamed."""

    def __init__(self, target: Path) -> None:
        self._temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")

    def __enter__(self) -> tuple[IO[bytes], Path]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._temporary, flags, 0o644), "wb")
        return self._file, self._temporary

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _settle(file: IO[bytes], temporary: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _write(chunks: Iterable[bytes], sink: IO[bytes], hasher: Any) -> None:
    for chunk in chunks:
        hasher.update(chunk)
        sink.write(chunk)


def _is_local(filesystem: Any) -> bool:
    protocol = filesystem.protocol
    return "file" in (protocol if isinstance(protocol, list | tuple) else (protocol,))
