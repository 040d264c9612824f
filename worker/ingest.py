"""Reading what was uploaded: one `ingest` job looks into every pending file of a dataset.

A file is read outside any transaction and its fate written with the job's fence, a batch at a time, so a worker
that dies costs a batch of reading and a second one repeats nothing. Knows nothing about Celery, and opens no
picture itself (decode.py).
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.blobs import image_key, make_key
from catalog.datasets import ingest, progress
from catalog.datasets.captions import stem, tidy_name
from catalog.datasets.ingest import DecodedImage, Member
from catalog.datasets.models import DatasetFile
from catalog.datasets.progress import CancelRequested
from catalog.datasets.room import count_room
from contracts.ingest import IngestPhase
from contracts.layouts import MASK_SUFFIX, TABLE_EXTENSION, FileKind, kind_of, why_not
from worker.archives import NotAnArchive, StoreFailed, members
from worker.captions import MAX_CAPTION_FILE_BYTES, decoded_text
from worker.decode import MAX_FILE_BYTES, Decoder, Refused
from worker.lease import Lease
from worker.metadata import MAX_METADATA_BYTES, Unusable, read_metadata
from worker.reading import Interrupted, Reading
from worker.space import NoRoom, refuse_full_disk, refuse_full_folder, waiting_when_full
from worker.station import Station
from worker.tables import opened_table, table_lines

BATCH_FILES = 16
"""Files read between two writes: what a crash repeats."""

Fate = Callable[[Session], None]
"""What is written about one file, within the batch's transaction."""

log = structlog.get_logger(__name__)


def read_uploads(station: Station, decoder: Decoder, lease: Lease, draining: threading.Event) -> None:
    """Look into every pending file, then give captions to images and end the job.

    Cancelled by its owner it ends the job just the same: what was taken in stays, and nothing more is read.

    Raises:
        LeaseLost: another attempt has the job; nothing was written by this one since.
        Interrupted: the worker is draining.
        NoRoom: the disk has none for the next file, which waits; what was read before it has met its fate.
    """
    claim = lease.claim
    with station.database.reading() as session:
        room = count_room(session, claim.owner, claim.subject_id, station.settings.max_dataset_images)
        careful = progress.has_failed(session, claim)
    try:
        _read_all(Reading(station, decoder, lease, draining, room, careful))
    except CancelRequested:
        log.info("ingest.cancelled", job=claim.job_id, dataset=claim.subject_id)
        with station.database.session() as session:
            unread = ingest.stop(session, claim)
        for key in unread:
            station.blobs.delete(key)


def _read_all(reading: Reading) -> None:
    station, claim = reading.station, reading.lease.claim
    while True:
        reading.check()
        with station.database.session() as session:
            files = ingest.pending_files(session, claim, 1 if reading.careful else BATCH_FILES)
        if not files:
            reading.tell(IngestPhase.SETTLING)
            with station.database.session() as session:
                ingest.finish(session, claim)
            return
        _read_batch(reading, files)


def _read_batch(reading: Reading, files: Sequence[DatasetFile]) -> None:
    fates: list[tuple[DatasetFile, Fate]] = []
    try:
        for file in files:
            with waiting_when_full():
                fates.append((file, _look_into(reading, file)))
    except (jobs.LeaseLost, Interrupted, CancelRequested):
        raise
    except Exception as trouble:
        # What was read before it is not read again.
        _write(reading, fates, (files[len(fates)], trouble) if isinstance(trouble, NoRoom) else None)
        raise
    _write(reading, fates)


def _write(
    reading: Reading, fates: Sequence[tuple[DatasetFile, Fate]], waits: tuple[DatasetFile, NoRoom] | None = None
) -> None:
    station, claim = reading.station, reading.lease.claim
    with station.database.session() as session:
        for _, write in fates:
            write(session)
        if fates:
            progress.came_on(session, claim)
        if waits is not None:
            ingest.wait(session, claim, waits[0].id, str(waits[1]))
    # The upload itself is of no use any more; what was in it is stored without its metadata.
    for file, _ in fates:
        if file.blob_key is not None:
            station.blobs.delete(file.blob_key)


def _look_into(reading: Reading, file: DatasetFile) -> Fate:
    """Read one file and say what is to be written about it."""
    unpacked = file.kind in (FileKind.ARCHIVE, FileKind.TABLE)
    reading.doing(IngestPhase.UNPACKING if unpacked else IngestPhase.DECODING, file.filename)
    readers: dict[str, Callable[[Reading, DatasetFile, str], Fate]] = {
        FileKind.IMAGE: _image,
        FileKind.MASK: _image,
        FileKind.CAPTION: _caption,
        FileKind.METADATA: _metadata,
        FileKind.TABLE: _table,
        FileKind.ARCHIVE: _archive,
    }
    reader = readers.get(file.kind)
    if reader is None:
        return _rejected(reading, file, why_not(file.filename))
    if file.blob_key is None or not reading.station.blobs.exists(file.blob_key):
        return _rejected(reading, file, "the uploaded file is not in the store any more; upload it again")
    return reader(reading, file, file.blob_key)


def _image(reading: Reading, file: DatasetFile, key: str) -> Fate:
    blobs, claim = reading.station.blobs, reading.lease.claim
    if blobs.size(key) > MAX_FILE_BYTES:
        return _rejected(reading, file, f"larger than {MAX_FILE_BYTES // 1024**2} MB")
    is_mask = file.kind == FileKind.MASK
    answer = reading.decoder.decode(blobs.get_bytes(key), reading.station.settings.max_store_px, mask=is_mask)
    if isinstance(answer, Refused):
        return _rejected(reading, file, answer.reason)
    stored = image_key(claim.owner, answer.identity)
    decoded = DecodedImage(answer.identity, answer.width, answer.height, stored, answer.note, answer.likeness)
    if is_mask or reading.room.refusal is None:  # else it is a duplicate or one too many, and nobody would refer to it
        refuse_full_disk(reading.station, len(answer.png))
        blobs.put_once(stored, answer.png)
        if answer.alpha is not None and answer.alpha_png is not None and not is_mask:
            alpha_key = image_key(claim.owner, answer.alpha)
            refuse_full_disk(reading.station, len(answer.alpha_png))
            blobs.put_once(alpha_key, answer.alpha_png)
            decoded = replace(decoded, alpha=answer.alpha, alpha_key=alpha_key)
    if is_mask:
        return lambda session: ingest.record_mask(session, claim, file.id, decoded)
    return lambda session: ingest.record_image(session, claim, file.id, decoded, reading.room)


def _caption(reading: Reading, file: DatasetFile, key: str) -> Fate:
    if reading.station.blobs.size(key) > MAX_CAPTION_FILE_BYTES:
        return _rejected(reading, file, "too large for a caption")
    text = decoded_text(reading.station.blobs.get_bytes(key))
    if text is None:
        return _rejected(reading, file, "neither UTF-8 nor UTF-16 text; save it as UTF-8")
    return lambda session: ingest.record_caption(session, reading.lease.claim, file.id, text)


def _metadata(reading: Reading, file: DatasetFile, key: str) -> Fate:
    if reading.station.blobs.size(key) > MAX_METADATA_BYTES:
        return _rejected(reading, file, f"larger than {MAX_METADATA_BYTES // 1024**2} MB")
    try:
        if file.filename.lower().endswith(TABLE_EXTENSION):
            with _as_file(reading, key) as path:
                found = table_lines(path)
        else:
            found = read_metadata(file.filename, reading.station.blobs.get_bytes(key))
    except Unusable as error:
        return _rejected(reading, file, str(error))
    return lambda session: ingest.record_metadata(session, reading.lease.claim, file.id, found.lines, found.note)


def _table(reading: Reading, file: DatasetFile, key: str) -> Fate:
    found: list[Member] = []
    refuse_full_disk(reading.station, reading.station.blobs.size(key))  # pictures are packed as tightly as can be
    try:
        limits = reading.station.settings.archive_limits
        with _as_file(reading, key) as path, opened_table(path, file.filename, limits) as table:
            note = table.note
            for row in table.rows:
                reading.doing(IngestPhase.UNPACKING, file.filename, len(found))
                picture = _unpacked(reading, key, len(found), row.name, row.picture, row.reason)
                said = replace(picture, kind=FileKind.IMAGE)
                if row.picture is not None:
                    said = replace(said, caption=row.caption, concept=row.concept, repeats=row.repeats, split=row.split)
                found.append(said)
                if row.picture is not None and (row.mask is not None or row.mask_reason is not None):
                    name = f"{stem(row.name)}{MASK_SUFFIX}.png"
                    mask = _unpacked(reading, key, len(found), name, row.mask, row.mask_reason)
                    found.append(replace(mask, kind=FileKind.MASK))
    except Unusable as error:
        return _rejected(reading, file, str(error))
    except (NoRoom, OSError, CancelRequested):
        _drop(reading, found)
        raise
    if not found:
        return _rejected(reading, file, "it has no rows")
    return lambda session: ingest.record_members(session, reading.lease.claim, file.id, found, note)


def _archive(reading: Reading, file: DatasetFile, key: str) -> Fate:
    found: list[Member] = []
    refuse_full_disk(reading.station, reading.station.blobs.size(key))
    try:
        with reading.station.blobs.open(key) as stream:
            for member in members(stream, reading.station.settings.archive_limits, _unwanted):
                reading.doing(IngestPhase.UNPACKING, file.filename, len(found), member.of)
                name = tidy_name(member.name) or "unnamed"
                found.append(_unpacked(reading, key, len(found), name, member.data, member.refused))
    except NotAnArchive as error:
        return _rejected(reading, file, str(error))
    except (NoRoom, OSError, StoreFailed, CancelRequested):
        _drop(reading, found)
        raise
    if not found:
        return _rejected(reading, file, "the archive is empty")
    return lambda session: ingest.record_members(session, reading.lease.claim, file.id, found)


def _unpacked(
    reading: Reading, key: str, place: int, name: str, data: bytes | None, refused: str | None = None
) -> Member:
    """A file from inside another, stored until it is read itself."""
    if data is None or refused is not None:
        return Member(name, 0, None, refused)
    # Named after the outer file and the place in it: a second attempt writes over the first one's.
    inside = make_key(f"{key}.{place}")
    refuse_full_disk(reading.station, len(data))
    reading.station.blobs.put_bytes(inside, data)
    return Member(name, len(data), inside)


def _drop(reading: Reading, unpacked: Sequence[Member]) -> None:
    """Give the room back that half an archive takes; it is unpacked again when there is enough."""
    for member in unpacked:
        if member.blob_key is not None:
            reading.station.blobs.delete(member.blob_key)


def _unwanted(name: str) -> str | None:
    tidied = tidy_name(name)
    return why_not(tidied) if kind_of(tidied) is FileKind.OTHER else None


@contextmanager
def _as_file(reading: Reading, key: str) -> Iterator[Path]:
    """A blob as a file of this machine, for readers that jump about in it."""
    local = reading.station.blobs.local_path(key)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        refuse_full_folder(reading.station, folder, reading.station.blobs.size(key))
        fetched = Path(folder, "table")
        reading.station.blobs.fetch_to(key, fetched)
        yield fetched


def _rejected(reading: Reading, file: DatasetFile, reason: str) -> Fate:
    log.info("ingest.rejected", dataset=reading.lease.claim.subject_id, file=file.id, reason=reason)
    return lambda session: ingest.reject(session, reading.lease.claim, file.id, reason)
