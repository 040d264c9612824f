"""The headers of tus 1.0.0 (https://tus.io/protocols/resumable-upload) as values and back: pure functions.

Extensions: creation, expiration, checksum, termination. Knows nothing about where bytes go.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate

from contracts.failures import FailureCode, PatinaError

VERSION = "1.0.0"
EXTENSIONS = "creation,expiration,checksum,termination"
CHECKSUMS = ("sha256", "sha1")
UPLOADS_PATH = "/api/v1/uploads"
BODY_TYPE = "application/offset+octet-stream"

SAID_ALWAYS = {"tus-resumable": VERSION, "tus-version": VERSION}
"""On every answer under UPLOADS_PATH, refusals too."""

MAX_METADATA_CHARACTERS = 8192
NUMBER = re.compile(r"[0-9]{1,18}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Metadata:
    """What Upload-Metadata says of a file."""

    dataset: str
    filename: str
    sha256: str | None


@dataclass(frozen=True)
class Checksum:
    """What the bytes of one request must hash to."""

    algorithm: str
    digest: bytes

    def fits(self, hasher: hashlib._Hash) -> bool:
        """Whether they do."""
        return hasher.digest() == self.digest

    def hasher(self) -> hashlib._Hash:
        """A new hash of the algorithm; it finds accidents and keeps no secret."""
        return hashlib.new(self.algorithm, usedforsecurity=False)


def is_upload_path(path: str) -> bool:
    """Whether an address speaks tus."""
    return path == UPLOADS_PATH or path.startswith(f"{UPLOADS_PATH}/")


def options_headers(max_bytes: int) -> dict[str, str]:
    """What the server can do, for OPTIONS."""
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
    }


def expires(unix_s: float) -> str:
    """Upload-Expires as HTTP writes dates."""
    return formatdate(unix_s, usegmt=True)


def refuse_other_version(headers: Mapping[str, str]) -> None:
    """Every request but OPTIONS says which tus it speaks.

    Raises:
        PatinaError: UNSUPPORTED_PROTOCOL.
    """
    if headers.get("tus-resumable") != VERSION:
        raise PatinaError(FailureCode.UNSUPPORTED_PROTOCOL)


def read_number(headers: Mapping[str, str], name: str) -> int:
    """Upload-Length or Upload-Offset.

    Raises:
        PatinaError: BAD_UPLOAD_HEADERS.
    """
    value = headers.get(name.lower(), "")
    if not NUMBER.fullmatch(value):
        raise _bad(f"{name} must be a whole number of bytes.")
    return int(value)


def read_metadata(headers: Mapping[str, str]) -> Metadata:
    """Upload-Metadata: ``filename`` and ``dataset`` are needed, ``sha256`` (hexadecimal) lets the whole be checked.

    Raises:
        PatinaError: BAD_UPLOAD_HEADERS.
    """
    value = headers.get("upload-metadata", "")
    if len(value) > MAX_METADATA_CHARACTERS:
        raise _bad(f"Upload-Metadata is longer than {MAX_METADATA_CHARACTERS} characters.")
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in value.split(","))):
        key, _, encoded = pair.partition(" ")
        try:
            found[key] = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
        except ValueError:
            raise _bad(f"The value of '{key[:40]}' in Upload-Metadata is not base64.") from None
    missing = [key for key in ("filename", "dataset") if not found.get(key)]
    if missing:
        raise _bad(f"Upload-Metadata lacks {' and '.join(missing)}.")
    if "\0" in found["dataset"]:
        raise _bad("The dataset in Upload-Metadata holds a NUL character.")
    sha256 = found.get("sha256", "").lower() or None
    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise _bad("The sha256 in Upload-Metadata is not 64 hexadecimal digits.")
    return Metadata(found["dataset"], found["filename"], sha256)


def read_checksum(headers: Mapping[str, str]) -> Checksum | None:
    """Upload-Checksum, if there is one.

    Raises:
        PatinaError: BAD_UPLOAD_HEADERS: it cannot be read, or the algorithm is none of CHECKSUMS.
    """
    value = headers.get("upload-checksum")
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in CHECKSUMS:
        raise _bad(f"The algorithm of Upload-Checksum must be one of {', '.join(CHECKSUMS)}.")
    try:
        return Checksum(algorithm, base64.b64decode(encoded, validate=True))
    except ValueError:
        raise _bad("Upload-Checksum is not base64.") from None


def _bad(message: str) -> PatinaError:
    return PatinaError(FailureCode.BAD_UPLOAD_HEADERS, message)
