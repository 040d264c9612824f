"""Write files so that nobody ever reads half of one: temporary name, fsync, rename; and hash what was written.

Knows nothing about what the files say.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path

from contracts.rundir import ManifestFile

TEMPORARY = ".tmp-"
"""Prefix of names that are not finished; such leftovers may be deleted at any time."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Put ``content`` at ``path`` in one step."""
    temporary = temporary_beside(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk what there is of it would take room from the next
        raise


def temporary_beside(path: Path) -> Path:
    """A name next to ``path`` that nobody else uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}"


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished file or folder to its name and make the rename durable; a folder there before goes."""
    if path.is_dir():
        discard(path)
    os.replace(temporary, path)
    sync(path.parent)


def discard(folder: Path) -> None:
    """Delete a folder; from the first moment it no longer has its name, so half of it is never read."""
    trash = temporary_beside(folder)
    os.replace(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what an interrupted writer left in ``folder``."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file or folder by name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest_entry(root: Path, path: Path) -> ManifestFile:
    """Size and sha256 of a file, named relative to ``root``."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ManifestFile(path=path.relative_to(root).as_posix(), bytes=path.stat().st_size, sha256=sha256)
