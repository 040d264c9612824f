"""The hashes other tools know a weights file by: AutoV1, AutoV2, AutoV3 and the two in kohya's header.

Knows nothing about what is in the file beyond where its header ends.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

CHUNK_BYTES = 2**20
LEGACY_START = 0x100000
LEGACY_BYTES = 0x10000
LEGACY_LEAST_BYTES = 2 * 2**20
"""Smaller files have no AutoV1."""


def tail_hash(path: Path) -> str:
    """AutoV3: sha256 of the tensors' bytes without the header; what is written into the header leaves it as it is."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return _rest(file)


def file_hash(path: Path) -> str:
    """sha256 of the whole file; its first ten characters are AutoV2."""
    with path.open("rb") as file:
        return _rest(file)


def auto_v1(path: Path) -> str | None:
    """sha256 of 64 KiB at 1 MiB, its first eight characters; None for files under 2 MiB."""
    if path.stat().st_size < LEGACY_LEAST_BYTES:
        return None
    with path.open("rb") as file:
        file.seek(LEGACY_START)
        return hashlib.sha256(file.read(LEGACY_BYTES)).hexdigest()[:8]


def legacy_hash(head: bytes, file: IO[bytes], tail_start: int) -> str:
    """kohya's ``sshs_legacy_hash``: AutoV1 of a file that has ``head`` before the same tensors, of any size.

    Args:
        head: the other file's bytes before its tensors.
        file: where the tensors are; left at another position.
        tail_start: where they begin in it.
    """
    begin = head[LEGACY_START : LEGACY_START + LEGACY_BYTES]
    file.seek(tail_start + max(0, LEGACY_START - len(head)))
    return hashlib.sha256(begin + file.read(LEGACY_BYTES - len(begin))).hexdigest()[:8]


def _rest(file: IO[bytes]) -> str:
    found = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        found.update(chunk)
    return found.hexdigest()
