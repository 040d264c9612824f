"""Sends files to a dataset so that it can be broken off and run again: nothing twice, nothing lost.

What the dataset has been sent before, by name and content, is left out, but no caption or mask of a picture that is
sent; small files go together, large ones by tus in chunks that are checked one by one, several connections at once. A
request that the server finds too large is halved. Where an earlier attempt stopped is known to the server alone, so
that nothing has to be remembered here. Knows nothing about terminals.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.failures import FailureCode, InvalidInput, PatinaError
from contracts.layouts import FileKind, kind_of
from patina.client import UPLOAD_TIMEOUT_S, Client, Json
from patina.uploading import picture_of, portions

LARGE_BYTES = 8_000_000
"""Files above it go by tus: sending one again from its start would be noticed."""
CHUNK_BYTES = 8 << 20
ASKED_AT_ONCE = 1000
ATTEMPTS = 5
LONGEST_PAUSE_S = 5.0
UPLOADS = "/api/v1/uploads"
TUS = {"Tus-Resumable": "1.0.0"}
OF_ONE_FILE = frozenset(
    {
        FailureCode.INVALID_INPUT,
        FailureCode.NOT_A_ZIP,
        FailureCode.TOO_LARGE,
        FailureCode.UNSUPPORTED_MEDIA_TYPE,
        FailureCode.CHECKSUM_MISMATCH,
    }
)
"""Refusals that say something of the file; any other ends the whole."""

ASKED_ABOUT = (FailureCode.SERVER_UNREACHABLE, FailureCode.CONFLICT, FailureCode.CHECKSUM_MISMATCH)
"""Failures of a chunk after which the server is asked how far it is."""

LIMITS_OF_A_REQUEST = ("PATINA_MAX_UPLOAD_FILES", "PATINA_MAX_UPLOAD_BYTES")
"""Settings a refusal names when it was the request that was too large, and none of its files."""


@dataclass(frozen=True)
class Hashed:
    """A file, and what it is."""

    name: str
    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Sent:
    """What became of all files on the way to the server."""

    refused: list[Json]
    """As the server tells of files: name, bytes, accepted, problem."""
    skipped: list[str]
    """Names of those the dataset had been sent before."""
    accepted: int


def send(
    client: Client,
    dataset_id: str,
    files: Sequence[tuple[str, Path]],
    connections: int,
    advance: Callable[[int], None],
) -> Sent:
    """Send what the dataset has not been sent yet.

    Args:
        connections: requests under way at once.
        advance: told of bytes that need not be sent (any more), from several threads.

    Raises:
        PatinaError: the server cannot be reached or refuses more than single files.
    """
    with ThreadPoolExecutor(connections) as pool:
        hashed = list(pool.map(_hash, files))
        known = received(client, dataset_id, hashed)
        known -= _belonging(known, {picture_of(file.name) for file in hashed if file not in known and _shows(file)})
        missing = [file for file in hashed if file not in known]
        advance(sum(file.bytes for file in known))
        begun = unfinished(client, dataset_id) if missing else {}
        gate = _Gate(client, dataset_id, begun, advance)
        small = [(file.name, file.path) for file in missing if file.bytes <= LARGE_BYTES]
        work = [pool.submit(gate.send_together, portion) for portion in portions(small)]
        work += [pool.submit(gate.send_large, file) for file in missing if file.bytes > LARGE_BYTES]
        try:
            refused = [one for done in work for one in done.result()]
        except BaseException:
            gate.closed.set()
            pool.shutdown(cancel_futures=True)
            raise
    return Sent(refused, sorted(file.name for file in known), len(missing) - len(refused))


def received(client: Client, dataset_id: str, files: Sequence[Hashed]) -> set[Hashed]:
    """Those of the files the dataset has been sent before."""
    found: set[Hashed] = set()
    for start in range(0, len(files), ASKED_AT_ONCE):
        asked = files[start : start + ASKED_AT_ONCE]
        body = {"files": [{"name": file.name, "sha256": file.sha256} for file in asked]}
        answer = client.request("POST", f"/api/v1/datasets/{dataset_id}/received-files", json=body).json()
        found |= {file for file, there in zip(asked, answer["received"], strict=True) if there}
    return found


def unfinished(client: Client, dataset_id: str) -> dict[tuple[str, str | None, int], Json]:
    """Uploads to the dataset that wait for more bytes, by name, sha256 and length."""
    listed = client.request("GET", UPLOADS, params={"dataset": dataset_id}).json()
    return {(upload["name"], upload["sha256"], upload["length"]): upload for upload in listed}


class _Gate:
    """The way into one dataset."""

    def __init__(
        self, client: Client, dataset_id: str, begun: dict[tuple[str, str | None, int], Json], advance: Any
    ) -> None:
        self.client = client
        self.dataset_id = dataset_id
        self.begun = begun
        self.advance = advance
        self.closed = threading.Event()
        self.too_much: list[tuple[int, int]] = []
        """Files and bytes of the requests the server would not take: none that is as large in both is tried again."""

    def send_together(self, portion: list[tuple[str, Path]]) -> list[Json]:
        """Small files in one request, or in as many as the server wants; those refused."""
        if self.closed.is_set():
            return []
        count, size_bytes = len(portion), sum(path.stat().st_size for _, path in portion)
        if count > 1 and any(count >= files and size_bytes >= most_bytes for files, most_bytes in self.too_much):
            return self._send_halves(portion)
        try:
            answer = self.client.upload(self.dataset_id, portion)
            refused = [file for file in answer["files"] if not file["accepted"]]
        except PatinaError as error:
            if _is_of_the_request(error):
                self.too_much.append((count, size_bytes))
                return self._send_halves(portion)
            if error.code not in OF_ONE_FILE:
                raise
            refused = [_refusal(name, path, _problem_of(error, i)) for i, (name, path) in enumerate(portion)]
        self.advance(size_bytes)
        return refused

    def _send_halves(self, portion: list[tuple[str, Path]]) -> list[Json]:
        """What is too much for one request in two; a single file goes in chunks, which no such limit is about."""
        if len(portion) == 1:
            return self.send_large(_hash(portion[0]))
        middle = len(portion) // 2
        return self.send_together(portion[:middle]) + self.send_together(portion[middle:])

    def send_large(self, file: Hashed) -> list[Json]:
        """One file by tus, from where an earlier attempt stopped; itself when it is refused."""
        earlier = self.begun.get((file.name, file.sha256, file.bytes))
        try:
            url = earlier["url"] if earlier else self._begin(file)
            self._send_rest(file, url, earlier["offset"] if earlier else 0)
        except PatinaError as error:
            if error.code not in OF_ONE_FILE:
                raise
            return [_refusal(file.name, file.path, error)]
        return []

    def _begin(self, file: Hashed) -> str:
        said = {"dataset": self.dataset_id, "filename": file.name, "sha256": file.sha256}
        metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in said.items())
        headers = {**TUS, "Upload-Length": str(file.bytes), "Upload-Metadata": metadata}
        return self.client.request("POST", UPLOADS, headers=headers).headers["location"]

    def _send_rest(self, file: Hashed, url: str, offset: int) -> None:
        failures = 0
        self.advance(offset)
        with file.path.open("rb") as source:
            while offset < file.bytes and not self.closed.is_set():
                source.seek(offset)
                chunk = source.read(CHUNK_BYTES)
                if not chunk:
                    message = f"{file.name} became shorter while it was sent: it had {file.bytes} bytes."
                    raise InvalidInput([], message, "Upload it again when nothing writes to it any more.")
                try:
                    reached = self._send_chunk(url, offset, chunk)
                    failures = 0
                except PatinaError as error:
                    failures += 1
                    if error.code not in ASKED_ABOUT:
                        raise
                    reached = self._ask_again(url, failures, error)
                self.advance(reached - offset)
                offset = reached

    def _send_chunk(self, url: str, offset: int, chunk: bytes) -> int:
        digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
        headers = {
            **TUS,
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {digest}",
            "Content-Type": "application/offset+octet-stream",
        }
        # After the last chunk the server puts the whole file together, which takes longer than most answers.
        answer = self.client.request("PATCH", url, headers=headers, content=chunk, timeout=UPLOAD_TIMEOUT_S)
        return int(answer.headers["upload-offset"])

    def _ask_again(self, url: str, failures: int, error: PatinaError) -> int:
        """Where the upload is, after a chunk of which nobody knows whether it arrived."""
        while failures < ATTEMPTS:
            self.client.pause(min(0.25 * 2**failures, LONGEST_PAUSE_S))
            try:
                return int(self.client.request("HEAD", url, headers=TUS).headers["upload-offset"])
            except PatinaError as again:
                if error.code is FailureCode.CHECKSUM_MISMATCH and again.code is FailureCode.NOT_FOUND:
                    raise error from None  # it was the whole that did not fit, and the server took it back
                if again.code is not FailureCode.SERVER_UNREACHABLE:
                    raise
                failures += 1
        raise error


def _shows(file: Hashed) -> bool:
    return kind_of(file.name) is FileKind.IMAGE


def _belonging(files: set[Hashed], pictures: set[str]) -> set[Hashed]:
    """Captions and masks of these pictures: sent apart from their picture they would be for one that is there."""
    return {file for file in files if not _shows(file) and picture_of(file.name) in pictures}


def _hash(file: tuple[str, Path]) -> Hashed:
    name, path = file
    try:
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            return Hashed(name, path, source.tell(), digest)
    except OSError as error:
        message = f"{path} cannot be read any more: {error.strerror}."
        raise InvalidInput([], message, "Run the command again; what is there is sent.") from None


def _refusal(name: str, path: Path, problem: PatinaError) -> Json:
    words = {"code": str(problem.code), "message": problem.message, "hint": problem.hint}
    return {"name": name, "bytes": path.stat().st_size, "accepted": False, "problem": words}


def _is_of_the_request(error: PatinaError) -> bool:
    return error.code is FailureCode.TOO_LARGE and any(name in error.message for name in LIMITS_OF_A_REQUEST)


def _problem_of(error: PatinaError, index: int) -> PatinaError:
    """What a refusal of several files says of one of them."""
    for field in error.errors if isinstance(error, InvalidInput) else ():
        if field.pointer == f"/files/{index}":
            return PatinaError(error.code, field.message, error.hint)
    return error
