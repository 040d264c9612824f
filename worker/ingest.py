"""Reading what was uploaded: one `ingest` job looks into every pending file of a dataset.

A file is read outside any transaction and its fate written with the job's fence, a batch at a time, so a worker
that dies costs a batch of reading and a second one repeats nothing. Knows nothing about Celery, and opens no
picture itself (decode.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.blobs import image_key, make_key
from catalog.datasets import ingest
from catalog.datasets.captions import tidy_name
from catalog.datasets.ingest import DecodedImage, Member
from catalog.datasets.models import DatasetFile
from worker.archives import Limits, NotAnArchive, members
from worker.captions import MAX_CAPTION_FILE_BYTES, MAX_METADATA_BYTES, metadata_lines, sidecar_text
from worker.decode import MAX_FILE_BYTES, Decoder, Refused
from worker.lease import Lease
from worker.station import Station

BATCH_FILES = 16
"""Files read between two writes: what a crash repeats."""

Fate = Callable[[Session], None]
"""What is written about one file, within the batch's transaction."""

log = structlog.get_logger(__name__)


class Interrupted(Exception):
    """The worker is draining; the rest is for the next attempt."""


@dataclass(frozen=True)
class Reading:
    """One attempt at an ingest job and what it works with."""

    station: Station
    decoder: Decoder
    lease: Lease
    draining: threading.Event

    def check(self) -> None:
        """Called before each file and each member of an archive.

        Raises:
            LeaseLost: another attempt has the job.
            Interrupted: the worker is draining.
        """
        if self.lease.lost.is_set():
            raise jobs.LeaseLost(f"job {self.lease.claim.job_id}")
        if self.draining.is_set():
            raise Interrupted


def read_uploads(station: Station, decoder: Decoder, lease: Lease, draining: threading.Event) -> None:
    """Look into every pending file, then give captions to images and end the job.

    Raises:
        LeaseLost: another attempt has the job; nothing was written by this one since.
        Interrupted: the worker is draining.
    """
    claim = lease.claim
    reading = Reading(station, decoder, lease, draining)
    while True:
        reading.check()
        with station.database.session() as session:
            files = ingest.pending_files(session, claim, BATCH_FILES)
            if not files:
                ingest.finish(session, claim)
                return
        fates = [(file, _look_into(reading, file)) for file in files]
        with station.database.session() as session:
            for _, write in fates:
                write(session)
        # The upload itself is of no use any more; what was in it is stored without its metadata.
        for file, _ in fates:
            if file.blob_key is not None:
                station.blobs.delete(file.blob_key)


def _look_into(reading: Reading, file: DatasetFile) -> Fate:
    """Read one file and say what is to be written about it."""
    reading.check()
    readers = {"image": _image, "caption": _caption, "metadata": _metadata, "archive": _archive}
    reader = readers.get(file.kind)
    if reader is None:
        return _rejected(reading, file, "not a picture (.png .jpg .jpeg .webp), caption (.txt .caption) or .zip")
    if file.blob_key is None or not reading.station.blobs.exists(file.blob_key):
        return _rejected(reading, file, "the uploaded file is not in the store any more; upload it again")
    return reader(reading, file, file.blob_key)


def _image(reading: Reading, file: DatasetFile, key: str) -> Fate:
    if reading.station.blobs.size(key) > MAX_FILE_BYTES:
        return _rejected(reading, file, f"larger than {MAX_FILE_BYTES // 1024**2} MB")
    answer = reading.decoder.decode(reading.station.blobs.get_bytes(key))
    if isinstance(answer, Refused):
        return _rejected(reading, file, answer.reason)
    stored = image_key(reading.lease.claim.owner, answer.identity)
    if not reading.station.blobs.exists(stored):
        reading.station.blobs.put_bytes(stored, answer.png)
    decoded = DecodedImage(answer.identity, answer.width, answer.height, stored)
    return lambda session: ingest.record_image(session, reading.lease.claim, file.id, decoded)


def _caption(reading: Reading, file: DatasetFile, key: str) -> Fate:
    if reading.station.blobs.size(key) > MAX_CAPTION_FILE_BYTES:
        return _rejected(reading, file, "too large for a caption")
    text = sidecar_text(reading.station.blobs.get_bytes(key))
    if text is None:
        return _rejected(reading, file, "not UTF-8 text")
    return lambda session: ingest.record_caption(session, reading.lease.claim, file.id, text)


def _metadata(reading: Reading, file: DatasetFile, key: str) -> Fate:
    if reading.station.blobs.size(key) > MAX_METADATA_BYTES:
        return _rejected(reading, file, f"larger than {MAX_METADATA_BYTES // 1024**2} MB")
    lines = metadata_lines(reading.station.blobs.get_bytes(key))
    if not lines:
        return _rejected(reading, file, "it has no lines")
    return lambda session: ingest.record_metadata(session, reading.lease.claim, file.id, lines)


def _archive(reading: Reading, file: DatasetFile, key: str) -> Fate:
    found: list[Member] = []
    try:
        with reading.station.blobs.open(key) as stream:
            for index, member in enumerate(members(stream, Limits())):
                reading.check()
                name = tidy_name(member.name) or "unnamed"
                if member.data is None:
                    found.append(Member(name, 0, None, member.refused))
                    continue
                # Named after the archive and the place in it: a second attempt writes over the first one's.
                inside = make_key(f"{key}.{index}")
                reading.station.blobs.put_bytes(inside, member.data)
                found.append(Member(name, len(member.data), inside))
    except NotAnArchive as error:
        reason = str(error)
        return _rejected(reading, file, reason)
    if not found:
        return _rejected(reading, file, "the archive is empty")
    return lambda session: ingest.record_members(session, reading.lease.claim, file.id, found)


def _rejected(reading: Reading, file: DatasetFile, reason: str) -> Fate:
    log.info("ingest.rejected", dataset=reading.lease.claim.subject_id, file=file.id, reason=reason)
    return lambda session: ingest.reject(session, reading.lease.claim, file.id, reason)
