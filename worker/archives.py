"""Reading zip archives nobody has vouched for: members one by one, counted while they are read.

Archive names are only ever names: nothing is written anywhere. Knows nothing about datasets or pictures.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from contracts.failures import FAILURES, FailureCode

MAX_ENTRIES = 20_000
MAX_ENTRY_BYTES = 64 * 1024**2
MAX_TOTAL_BYTES = 8 * 1024**3
MAX_RATIO = 100
RATIO_FREE_BYTES = 1024**2
"""Of one entry, before its ratio counts; of all entries together it is 64 times as much."""
CHUNK_BYTES = 256 * 1024
DIRECTORY_BYTES_EACH = 1024
"""Room for an entry in the table of contents: 46 bytes and its name."""
LOCAL_HEADER_BYTES = 30
FIRST_BYTES = b"PK\x03\x04"
ENCRYPTED_FLAG = 0x1
UTF8_FLAG = 0x800
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others let an entry say how much memory unpacking it takes."""
TIGHT = "packed suspiciously tightly; the server's PATINA_ARCHIVE_RATIO says how tightly is too tight"
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, OverflowError, RuntimeError, ValueError)
"""What zipfile runs into when an archive is damaged or lies: of places beyond any file, too."""
JUNK_NAMES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Limits:
    """How much one archive may hold."""

    entries: int = MAX_ENTRIES
    entry_bytes: int = MAX_ENTRY_BYTES
    total_bytes: int = MAX_TOTAL_BYTES
    ratio: int = MAX_RATIO


class Budget:
    """How much one upload may still unpack to: counted while it does, whatever any header claims."""

    def __init__(self, limits: Limits, packed_bytes: int) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._used_bytes = 0

    @property
    def left_bytes(self) -> int:
        return self._limits.total_bytes - self._used_bytes

    def take(self, count: int) -> None:
        """Count bytes that were unpacked."""
        self._used_bytes += count

    def refusal(self) -> str | None:
        """Why nothing more may be unpacked; None while it may."""
        if self.left_bytes <= 0:
            return f"the upload unpacks to more than {_said(self._limits.total_bytes)} (PATINA_ARCHIVE_TOTAL_BYTES)"
        free = self._used_bytes <= 64 * RATIO_FREE_BYTES
        return None if free or self._used_bytes <= self._limits.ratio * self._packed_bytes else TIGHT


@dataclass(frozen=True)
class Member:
    """One file of an archive: its name there, and its bytes or why they are not taken."""

    name: str
    data: bytes | None
    refused: str | None = None
    of: int = 1
    """How many files the archive has."""


class NotAnArchive(Exception):
    """The archive as a whole cannot be read; the text says why and is shown to the user."""


class StoreFailed(Exception):
    """The archive's bytes could not be had; that says nothing of the archive, and may pass."""


def members(
    archive: IO[bytes], limits: Limits | None = None, unwanted: Callable[[str], str | None] = lambda name: None
) -> Iterator[Member]:
    """Every file of a zip, in its order; folders and the litter of desktop systems are passed over.

    ``unwanted`` says why a file of some name is not even unpacked.

    Raises:
        NotAnArchive: it is not a zip, or has more entries than allowed.
        StoreFailed: ``archive`` could not be read.
    """
    limits = limits or Limits()
    try:
        opened = zipfile.ZipFile(cast(IO[bytes], _Sips(archive, limits.entries * DIRECTORY_BYTES_EACH)))
    except BROKEN:
        archive.seek(0)
        if archive.read(len(FIRST_BYTES)) == FIRST_BYTES:
            raise NotAnArchive(
                "The zip was cut off when it was made or copied: its end is missing. Make it anew."
            ) from None
        words = FAILURES[FailureCode.NOT_A_ZIP]
        raise NotAnArchive(f"{words.message} {words.hint}") from None
    with opened:
        listed = [info for info in opened.infolist() if not _is_folder(info) and not _is_litter(name_of(info))]
        if len(listed) > limits.entries:
            raise NotAnArchive(
                f"It holds {len(listed)} files; at most {limits.entries} are taken at once."
                " Pack fewer, or raise PATINA_ARCHIVE_ENTRIES on the server."
            )
        budget = Budget(limits, archive.seek(0, io.SEEK_END))
        overlapping = _overlapping(listed)
        seen: set[str] = set()
        for info in listed:
            name = name_of(info)
            refused = "a file of this name came before it" if name in seen else _refusal(info)
            seen.add(name)
            if info.header_offset in overlapping:
                refused = "it lies upon another file of the archive"
            refused = refused or unwanted(name) or budget.refusal()
            if refused is not None:
                yield Member(name, None, refused, len(listed))
                continue
            data, refused, used = _read(opened, info, min(limits.entry_bytes, budget.left_bytes), limits.ratio)
            budget.take(used)
            if data is None and budget.left_bytes <= 0:  # it was the whole that left it no room
                refused = budget.refusal()
            yield Member(name, data, refused, len(listed))


def name_of(info: zipfile.ZipInfo) -> str:
    """An entry's name; many packers write UTF-8 without saying so, which zipfile takes for a code page of 1981."""
    if info.flag_bits & UTF8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _overlapping(listed: list[zipfile.ZipInfo]) -> set[int]:
    """Where entries start that share bytes with the one before: a small archive of endless size (CVE-2024-0450)."""
    found = set()
    end = 0
    for info in sorted(listed, key=lambda info: info.header_offset):
        if info.header_offset < end:
            found.add(info.header_offset)
        end = max(end, info.header_offset + LOCAL_HEADER_BYTES + info.compress_size)
    return found


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
        try:
            return self._file.read(count)
        except OSError as error:  # zipfile would take it for the archive's fault
            raise StoreFailed(str(error)) from error

    def close(self) -> None:
        """The file is closed by whoever opened it."""


def _is_folder(info: zipfile.ZipInfo) -> bool:
    # Not is_dir(), which fails on an entry without a name.
    return info.filename.endswith("/")


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
    if info.compress_type not in METHODS:
        return "packed by a method that is not taken; pack it as an ordinary zip"
    return None


def _said(count_bytes: int) -> str:
    """Bytes in the largest unit that is filled at least once: a small limit is not told as none."""
    for unit, unit_bytes in (("MB", 1024**2), ("KB", 1024)):
        if count_bytes >= unit_bytes:
            return f"{round(count_bytes / unit_bytes, 1):g} {unit}"
    return f"{count_bytes} bytes"


def _read(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int, ratio: int
) -> tuple[bytes | None, str | None, int]:
    """The bytes or why not, and how many were unpacked; what the headers claim is not believed."""
    parts = bytearray()
    try:
        with opened.open(info) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                parts += chunk
                if len(parts) > limit:
                    return None, f"larger than {_said(limit)} unpacked (PATINA_ARCHIVE_ENTRY_BYTES)", len(parts)
                if len(parts) > RATIO_FREE_BYTES and len(parts) > ratio * max(info.compress_size, 1):
                    return None, TIGHT, len(parts)
    except BROKEN:
        return None, "damaged inside the archive", len(parts)
    return bytes(parts), None, len(parts)
