"""Multipart files from the wire to temporary files, in bounded memory; knows nothing about datasets.

A file that breaks a limit is marked and skipped, the others go on. Only what makes the whole request
unreadable (not multipart, over the request's limits) refuses all of it, and then nothing has been stored yet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from catalog.datasets.captions import tidy_name
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError

WRITE_BYTES = 1 << 20
"""Bytes gathered from the wire before a thread parses and writes them."""

PREFIX = "upload-"
LEFTOVER_AFTER_S = 24 * 3600.0


@dataclass(frozen=True)
class UploadLimits:
    """What one upload request may bring."""

    request_bytes: int
    file_bytes: int
    files: int


@dataclass
class Received:
    """One file of a request; ``problem`` says why it cannot be taken, and then ``path`` is of no use."""

    name: str
    path: Path
    bytes: int = 0
    problem: PatinaError | None = None


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder for the files of one request, gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as folder:
        yield Path(folder)


def remove_leftovers(parent: Path, older_than_s: float = LEFTOVER_AFTER_S) -> None:
    """Remove what uploads of processes that were killed left behind; younger ones may still be going on."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another process may end its upload meanwhile
            if time.time() - folder.stat().st_mtime > older_than_s:
                shutil.rmtree(folder, ignore_errors=True)


async def receive_files(request: Request, folder: Path, limits: UploadLimits) -> list[Received]:
    """Write every file of a multipart body into ``folder``.

    Raises:
        PatinaError: the body is over the request's limits.
        InvalidInput: the body is not readable as multipart, or holds no file.
    """
    if announced_length(request) > limits.request_bytes:
        raise _request_too_large(limits)
    try:
        spool = _Spool(folder, limits, _boundary(request))
    except FormParserError as error:  # the parser takes none that is longer than any client's
        raise _unreadable() from error
    try:
        gathered = bytearray()
        async for chunk in request.stream():
            gathered += chunk
            if len(gathered) >= WRITE_BYTES:
                await run_in_threadpool(spool.feed, bytes(gathered))
                gathered.clear()
        await run_in_threadpool(spool.feed, bytes(gathered))
        return spool.finish()
    except ClientDisconnect:
        raise _unreadable() from None  # nobody hears it, and it is nothing for the log either
    finally:
        spool.close()


def announced_length(request: Request) -> int:
    """Bytes of the body as its header says; 0 where it says nothing, and then they are counted as they come."""
    length = request.headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdecimal() else 0


class _Spool:
    """The multipart parser's callbacks and the file being written."""

    def __init__(self, folder: Path, limits: UploadLimits, boundary: bytes) -> None:
        self.folder = folder
        self.limits = limits
        self.received: list[Received] = []
        self.total_bytes = 0
        self.complete = False
        self.output: BinaryIO | None = None
        self.current: Received | None = None
        self.headers: dict[bytes, bytes] = {}
        self.header_name, self.header_value = bytearray(), bytearray()
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self.headers.clear,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._done,
            },
        )

    def feed(self, data: bytes) -> None:
        self.total_bytes += len(data)
        if self.total_bytes > self.limits.request_bytes:
            raise _request_too_large(self.limits)
        try:
            self.parser.write(data)
        except FormParserError as error:
            raise _unreadable() from error

    def finish(self) -> list[Received]:
        if not self.complete:
            raise _unreadable()
        if not self.received:
            raise InvalidInput([FieldError(pointer="/files", message="there is no file in the request")])
        return self.received

    def close(self) -> None:
        if self.output is not None:
            self.output.close()
            self.output = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]

    def _header_end(self) -> None:
        self.headers[bytes(self.header_name).lower()] = bytes(self.header_value)
        self.header_name.clear()
        self.header_value.clear()

    def _begin(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        if b"filename" not in options:
            field = clean_name(options.get(b"name", b""))
            raise InvalidInput([FieldError(pointer=f"/{field}", message="is not a file; send files only")])
        name = clean_name(options[b"filename"])
        if not name:  # what a browser sends for an empty file field
            return
        if len(self.received) >= self.limits.files:
            raise PatinaError(
                FailureCode.TOO_LARGE,
                f"The request has more than {self.limits.files} files (PATINA_MAX_UPLOAD_FILES).",
                "Send them in several requests or in a zip, or raise PATINA_MAX_UPLOAD_FILES on the server.",
            )
        self.current = Received(name, self.folder / f"{len(self.received):06d}")
        self.received.append(self.current)
        self.output = self.current.path.open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.current is None or self.output is None or self.current.problem is not None:
            return
        self.current.bytes += end - start
        if self.current.bytes > self.limits.file_bytes:
            self.current.problem = PatinaError(
                FailureCode.TOO_LARGE,
                f"{self.current.name} is over {self.limits.file_bytes} bytes (PATINA_MAX_FILE_BYTES).",
                "Make the file smaller, or raise PATINA_MAX_FILE_BYTES on the server.",
            )
            os.ftruncate(self.output.fileno(), 0)
            return
        self.output.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self.close()
        self.current = None

    def _done(self) -> None:
        self.complete = True


def clean_name(raw: bytes) -> str:
    """A file's name as text for the ledger; it never becomes a path on the server."""
    return tidy_name(raw.decode("utf-8", "replace"))


def _boundary(request: Request) -> bytes:
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if not boundary:
        raise _unreadable()
    return boundary


def _request_too_large(limits: UploadLimits) -> PatinaError:
    return PatinaError(
        FailureCode.TOO_LARGE,
        f"The request is over {limits.request_bytes} bytes (PATINA_MAX_UPLOAD_BYTES).",
        "Send the files in several requests, or raise PATINA_MAX_UPLOAD_BYTES on the server.",
    )


def _unreadable() -> InvalidInput:
    return InvalidInput(
        [FieldError(pointer="", message="the body is not complete multipart/form-data")],
        hint="Send the files as multipart/form-data, for example with curl -F files=@picture.png.",
    )
