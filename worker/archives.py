"""Reading zip archives nobody has vouched for: members one by one, counted while they are read.

Archive names are only ever names: nothing is written anywhere. Knows nothing about datasets or pictures.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from contracts.failures import FAILURES, FailureCode

MAX_ENTRIES = 20_000
MAX_ENTRY_BYTES = 64 * 1024**2
MAX_TOTAL_BYTES = 8 * 1024**3
MAX_RATIO = 100
RATIO_FREE_BYTES = 1024**2
CHUNK_BYTES = 256 * 1024
DIRECTORY_BYTES_EACH = 1024
"""Room for an entry in the table of contents: 46 bytes and its name."""
ENCRYPTED_FLAG = 0x1
JUNK_NAMES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Limits:
    """How much one archive may hold."""

    entries: int = MAX_ENTRIES
    entry_bytes: int = MAX_ENTRY_BYTES
    total_bytes: int = MAX_TOTAL_BYTES
    ratio: int = MAX_RATIO


@dataclass(frozen=True)
class Member:
    """One file of an archive: its name there, and its bytes or why they are not taken."""

    name: str
    data: bytes | None
    refused: str | None = None


class NotAnArchive(Exception):
    """The archive as a whole cannot be read; the text says why and is shown to the user."""


def members(archive: IO[bytes], limits: Limits | None = None) -> Iterator[Member]:
    """Every file of a zip, in its order; folders and the litter of desktop systems are passed over.

    Raises:
        NotAnArchive: it is not a zip, or has more entries than allowed.
    """
    limits = limits or Limits()
    try:
        opened = zipfile.ZipFile(cast(IO[bytes], _Sips(archive, limits.entries * DIRECTORY_BYTES_EACH)))
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        words = FAILURES[FailureCode.NOT_A_ZIP]
        raise NotAnArchive(f"{words.message} {words.hint}") from None
    with opened:
        listed = [info for info in opened.infolist() if not info.is_dir() and not _is_litter(info.filename)]
        if len(listed) > limits.entries:
            raise NotAnArchive(f"It holds {len(listed)} files; at most {limits.entries} are taken at once.")
        left = limits.total_bytes
        seen: set[str] = set()
        for info in listed:
            refused = "a file of this name came before it" if info.filename in seen else _refusal(info)
            seen.add(info.filename)
            if refused is None and left <= 0:
                refused = f"the archive unpacks to more than {limits.total_bytes // 1024**2} MB"
            if refused is not None:
                yield Member(info.filename, None, refused)
                continue
            member, used = _read(opened, info, min(limits.entry_bytes, left), limits.ratio)
            left -= used
            yield member


class _Sips:
    """A file that gives at most so many bytes at once: zipfile reads a table of contents whole, however long it is."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self._most_bytes = max(most_bytes, CHUNK_BYTES)

    def read(self, count: int = -1) -> bytes:
        """As of a file; the text of the refusal is shown to the user."""
        if count > self._most_bytes:
            raise NotAnArchive("Its table of contents is too long; pack fewer files at once.")
        return self._file.read(count)

    def close(self) -> None:
        """The file is closed by whoever opened it."""


def _is_litter(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts[:-1] or parts[-1] in JUNK_NAMES or parts[-1].startswith("._")


def _refusal(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a link or device, not a file"
    if info.flag_bits & ENCRYPTED_FLAG:
        return "encrypted; pack it without a password"
    if info.filename.lower().endswith(".zip"):
        return "an archive inside an archive; unpack it first"
    return None


def _read(opened: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int, ratio: int) -> tuple[Member, int]:
    """The member, and how many bytes were unpacked for it; what the headers claim is not believed."""
    parts = bytearray()
    try:
        with opened.open(info) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                parts += chunk
                if len(parts) > limit:
                    return Member(info.filename, None, f"larger than {limit // 1024**2} MB unpacked"), len(parts)
                if len(parts) > RATIO_FREE_BYTES and len(parts) > ratio * max(info.compress_size, 1):
                    return Member(info.filename, None, "packed suspiciously tightly"), len(parts)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError):
        return Member(info.filename, None, "damaged inside the archive"), len(parts)
    return Member(info.filename, bytes(parts)), len(parts)
