"""Uploads as their owners use them: begin, add bytes at the offset, end in the dataset's ledger, exactly once.

Bytes are stored as pieces, each a blob of its own, and count from the commit that moves the offset over them: of two
requests at one offset one wins, whichever process they reach, and the other's blob is removed. The offset reaches
the length in the transaction that offers the whole file, so that an upload that looks complete is in the ledger.
Knows nothing about HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.blobs import BlobStore, make_key, upload_key
from catalog.datasets import service as datasets
from catalog.datasets.captions import tidy_name
from catalog.datasets.models import DatasetFile
from catalog.db import Database, db_now, new_id
from catalog.job_requests import enqueue_once
from catalog.uploads import repository
from catalog.uploads.models import Upload, UploadPiece
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError

MAX_PIECES = 10_000
"""Of one upload: what a client that sends crumbs may make of the store."""
SWEPT_AT_ONCE = 50


@dataclass(frozen=True)
class Announced:
    """What a client says it will send."""

    dataset: str
    filename: str
    length_bytes: int
    sha256: str | None
    metadata_header: str


@dataclass(frozen=True)
class Piece:
    """Bytes that are stored and do not count yet."""

    start: int
    bytes: int
    blob_key: str


def begin(session: Session, owner: str, announced: Announced, keep_s: float) -> Upload:
    """Make an upload with nothing received; ``keep_s`` after its last byte it is forgotten.

    Raises:
        PatinaError: NOT_FOUND: there is no such dataset.
    """
    dataset = datasets.find_dataset(session, owner, announced.dataset, hold=True)
    upload = Upload(
        id=new_id("upl"),
        owner=owner,
        dataset_id=dataset.id,
        filename=tidy_name(announced.filename) or "unnamed",
        sha256=announced.sha256,
        metadata_header=announced.metadata_header,
        length_bytes=announced.length_bytes,
        received_bytes=0,
        expires_at=db_now() + keep_s,
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def read(session: Session, owner: str, upload_id: str) -> Upload:
    """One upload, finished or not.

    Raises:
        PatinaError: NOT_FOUND: there is none, or it has expired.
    """
    upload = repository.find(session, owner, upload_id)
    if upload is None:
        raise PatinaError(FailureCode.NOT_FOUND, "There is no such upload.", "It may have expired: begin a new one.")
    return upload


def unfinished(session: Session, owner: str, dataset: str) -> Sequence[Upload]:
    """Uploads to a dataset that wait for more bytes.

    Raises:
        PatinaError: NOT_FOUND: there is no such dataset.
    """
    return repository.unfinished(session, owner, datasets.read(session, owner, dataset).id)


def store_piece(blobs: BlobStore, owner: str, start: int, data: bytes) -> Piece:
    """Store bytes that may come to count at ``start``."""
    key = make_key("pieces", owner, secrets.token_hex(16))
    blobs.put_bytes(key, data)
    return Piece(start, len(data), key)


def drop_pieces(blobs: BlobStore, pieces: Iterable[Piece]) -> None:
    """Remove the blobs of pieces that will never count."""
    for piece in pieces:
        blobs.delete(piece.blob_key)


def add_pieces(database: Database, owner: str, upload_id: str, pieces: Sequence[Piece], keep_s: float) -> None:
    """Have stored pieces count; not for the last ones, which ``complete`` takes.

    Raises:
        PatinaError: CONFLICT: the upload is not at the first one's start (any more); TOO_LARGE: too many pieces.
    """
    with database.session() as session:
        _count_in(session, owner, upload_id, pieces, keep_s, whole=False)


def complete(
    database: Database, blobs: BlobStore, owner: str, upload_id: str, last: Sequence[Piece], keep_s: float
) -> DatasetFile:
    """The last bytes are stored: make the whole file, offer it to its dataset, and forget the pieces.

    Whatever fails, the offset stays before ``last``, so that the client sends them again.

    Raises:
        PatinaError: NOT_FOUND or CONFLICT: the upload is gone, or not at the start of ``last`` (any more);
            CHECKSUM_MISMATCH: the whole is not what was announced; the upload is gone then.
    """
    with database.reading() as session:
        upload = read(session, owner, upload_id)
        earlier = [Piece(p.start, p.bytes, p.blob_key) for p in repository.pieces(session, owner, upload_id)]
    whole = [*earlier, *last]
    if any(piece.start != end for piece, end in zip(whole, _ends(whole), strict=True)):
        raise _elsewhere(upload)
    key = upload_key(owner)
    try:
        sha256 = blobs.put_stream(key, _contents(blobs, upload, whole))
        if upload.sha256 not in (None, sha256):
            terminate(database, blobs, owner, upload_id)
            raise PatinaError(
                FailureCode.CHECKSUM_MISMATCH,
                f"{upload.filename} arrived with another sha256 than was announced.",
                "The upload was taken back; send the file again from its first byte.",
            )
        with database.session() as session:
            _count_in(session, owner, upload_id, last, keep_s, whole=True)
            row = offer(session, owner, upload.dataset_id, upload.filename, key, upload.length_bytes, sha256)
            used_up = repository.remove_pieces(session, [upload_id])
    except PatinaError:
        # After any other error nobody knows whether the commit came through: the collector takes what did not.
        blobs.delete(key)
        raise
    for piece_key in used_up:
        blobs.delete(piece_key)
    return row


def terminate(database: Database, blobs: BlobStore, owner: str, upload_id: str) -> None:
    """Forget an upload and what arrived of it; a file it has become stays in its dataset.

    Raises:
        PatinaError: NOT_FOUND.
    """
    with database.session() as session:
        # Locked first: pieces that are just being counted in are seen, or come too late.
        upload = repository.find(session, owner, upload_id, lock=True) or read(session, owner, upload_id)
        keys = repository.remove_pieces(session, [upload.id])
        repository.remove(session, [upload.id])
    for key in keys:
        blobs.delete(key)


def forget_expired(database: Database, blobs: BlobStore) -> int:
    """Remove uploads nobody has sent anything to for too long; how many. For the sweep."""
    with database.session() as session:
        gone = repository.expired(session, SWEPT_AT_ONCE)
        keys = repository.remove_pieces(session, gone) if gone else []
        repository.remove(session, gone)
    for key in keys:
        blobs.delete(key)
    return len(gone)


def offer(
    session: Session, owner: str, dataset: str, filename: str, blob_key: str, size_bytes: int, sha256: str
) -> DatasetFile:
    """Enter a file that has arrived into the ledger, and have it read.

    The very file that came to nothing before gets another chance in the row it has.

    Raises:
        PatinaError: NOT_FOUND: there is no such dataset.
    """
    dataset_id = datasets.find_dataset(session, owner, dataset).id
    row = repository.rejected_twin(session, owner, dataset_id, tidy_name(filename) or "unnamed", sha256)
    if row is None:
        row = datasets.offer_upload(session, owner, dataset_id, filename, blob_key, size_bytes)
        repository.note_received(session, row, sha256)
        return row
    row.fate, row.reason, row.blob_key, row.bytes = Fate.PENDING, None, blob_key, size_bytes
    row.target = row.caption = row.note = None
    session.flush()
    enqueue_once(session, owner, jobs.Queue.LIGHT, jobs.Kind.INGEST, dataset_id)
    return row


def note_refused(
    session: Session, owner: str, dataset: str, filename: str, size_bytes: int, reason: str, sha256: str | None
) -> None:
    """Enter a file that was refused at the door into the ledger: once, as long as it is the same file.

    Raises:
        PatinaError: NOT_FOUND: there is no such dataset.
    """
    dataset_id = datasets.find_dataset(session, owner, dataset).id
    name = tidy_name(filename) or "unnamed"
    row = repository.rejected_twin(session, owner, dataset_id, name, sha256) if sha256 else None
    if row is not None:
        row.reason = reason
        return
    row = datasets.note_refused(session, owner, dataset_id, filename, size_bytes, reason)
    if sha256 is not None:
        repository.note_received(session, row, sha256)


def known(session: Session, owner: str, dataset: str, files: Sequence[tuple[str, str]]) -> list[bool]:
    """Which files (name, sha256) this owner's dataset has already been sent.

    Raises:
        PatinaError: NOT_FOUND: there is no such dataset.
    """
    dataset_id = datasets.read(session, owner, dataset).id
    there = repository.received(session, owner, dataset_id, sorted({sha256 for _, sha256 in files}))
    return [(tidy_name(name) or "unnamed", sha256) in there for name, sha256 in files]


def _count_in(
    session: Session, owner: str, upload_id: str, pieces: Sequence[Piece], keep_s: float, *, whole: bool
) -> None:
    start, end = pieces[0].start, pieces[-1].start + pieces[-1].bytes
    if not repository.advance(session, owner, upload_id, start, end, keep_s, whole=whole):
        raise _elsewhere(read(session, owner, upload_id))
    if repository.count_pieces(session, owner, upload_id) + len(pieces) > MAX_PIECES:
        raise PatinaError(
            FailureCode.TOO_LARGE,
            f"The upload has come in more than {MAX_PIECES} pieces.",
            "Begin it again and send more bytes in each request.",
        )
    rows = [
        UploadPiece(owner=owner, upload_id=upload_id, start=p.start, bytes=p.bytes, blob_key=p.blob_key) for p in pieces
    ]
    repository.add_pieces(session, rows)


def _ends(pieces: Sequence[Piece]) -> Iterator[int]:
    """Where each piece has to begin."""
    end = 0
    for piece in pieces:
        yield end
        end += piece.bytes


def _contents(blobs: BlobStore, upload: Upload, pieces: Sequence[Piece]) -> Iterator[bytes]:
    for piece in pieces:
        try:
            yield blobs.get_bytes(piece.blob_key)
        except FileNotFoundError:  # the same upload was completed, or taken back, meanwhile
            raise _elsewhere(upload) from None


def _elsewhere(upload: Upload) -> PatinaError:
    return PatinaError(
        FailureCode.CONFLICT,
        f"The upload is at offset {upload.received_bytes}.",
        "Ask for its offset with HEAD and go on from there.",
    )
