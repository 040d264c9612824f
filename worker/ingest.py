"""Reading what was uploaded: one `ingest` job looks into every pending file of a dataset.

A file is read outside any transaction and its fate written with the job's fence, a batch at a time, so a worker
that dies costs a batch of reading and a second one repeats nothing. Knows nothing about Celery, and opens no
picture itself (decode.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.blobs import image_key, make_key
from catalog.datasets import ingest
from catalog.datasets.ingest import DecodedImage, Member
from catalog.datasets.models import DatasetFile
from worker.archives import Limits, NotAnArchive, members
from worker.captions import MAX_CAPTION_FILE_BYTES, MAX_METADATA_BYTES, metadata_lines, sidecar_text, tidy_name
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


def read_uploads(station: Station, decoder: Decoder, lease: Lease, draining: threading.Event) -> None:
    """Look into every pending file, then give captions to images and end the job.

    Raises:
        LeaseLost: another attempt has the job; nothing was written by this one since.
        Interrupted: the worker is draining.
    """
    claim = lease.claim
    while True:
        if lease.lost.is_set():
            raise jobs.LeaseLost(f"job {claim.job_id}")
        if draining.is_set():
            raise Interrupted
        with station.database.session() as session:
            files = ingest.pending_files(session, claim, BATCH_FILES)
            if not files:
                ingest.finish(session, claim)
                return
        fates = [(file, _look_into(station, decoder, claim, file)) for file in files]
        with station.database.session() as session:
            for _, write in fates:
                write(session)
        # The upload itself is of no use any more; what was in it is stored without its metadata.
        for file, _ in fates:
            if file.blob_key is not None:
                station.blobs.delete(file.blob_key)


def _look_into(station: Station, decoder: Decoder, claim: jobs.Claim, file: DatasetFile) -> Fate:
    """Read one file and say what is to be written about it."""
    readers = {"image": _image, "caption": _caption, "metadata": _metadata, "archive": _archive}
    reader = readers.get(file.kind)
    if reader is None:
        return _rejected(claim, file, "not a picture (.png .jpg .jpeg .webp), caption (.txt .caption) or .zip")
    if file.blob_key is None or not station.blobs.exists(file.blob_key):
        return _rejected(claim, file, "the uploaded file is not in the store any more; upload it again")
    return reader(station, decoder, claim, file, file.blob_key)


def _image(station: Station, decoder: Decoder, claim: jobs.Claim, file: DatasetFile, key: str) -> Fate:
    if station.blobs.size(key) > MAX_FILE_BYTES:
        return _rejected(claim, file, f"larger than {MAX_FILE_BYTES // 1024**2} MB")
    answer = decoder.decode(station.blobs.get_bytes(key))
    if isinstance(answer, Refused):
        return _rejected(claim, file, answer.reason)
    stored = image_key(claim.owner, answer.identity)
    if not station.blobs.exists(stored):
        station.blobs.put_bytes(stored, answer.png)
    decoded = DecodedImage(answer.identity, answer.width, answer.height, stored)
    return lambda session: ingest.record_image(session, claim, file.id, decoded)


def _caption(station: Station, decoder: Decoder, claim: jobs.Claim, file: DatasetFile, key: str) -> Fate:
    if station.blobs.size(key) > MAX_CAPTION_FILE_BYTES:
        return _rejected(claim, file, "too large for a caption")
    text = sidecar_text(station.blobs.get_bytes(key))
    if text is None:
        return _rejected(claim, file, "not UTF-8 text")
    return lambda session: ingest.record_caption(session, claim, file.id, text)


def _metadata(station: Station, decoder: Decoder, claim: jobs.Claim, file: DatasetFile, key: str) -> Fate:
    if station.blobs.size(key) > MAX_METADATA_BYTES:
        return _rejected(claim, file, f"larger than {MAX_METADATA_BYTES // 1024**2} MB")
    lines = metadata_lines(station.blobs.get_bytes(key))
    if not lines:
        return _rejected(claim, file, "it has no lines")
    return lambda session: ingest.record_metadata(session, claim, file.id, lines)


def _archive(station: Station, decoder: Decoder, claim: jobs.Claim, file: DatasetFile, key: str) -> Fate:
    found: list[Member] = []
    try:
        with station.blobs.open(key) as stream:
            for index, member in enumerate(members(stream, Limits())):
                name = tidy_name(member.name)
                if member.data is None:
                    found.append(Member(name, 0, None, member.refused))
                    continue
                # Named after the archive and the place in it: a second attempt writes over the first one's.
                inside = make_key(f"{key}.{index}")
                station.blobs.put_bytes(inside, member.data)
                found.append(Member(name, len(member.data), inside))
    except NotAnArchive as error:
        reason = str(error)
        return _rejected(claim, file, reason)
    if not found:
        return _rejected(claim, file, "the archive is empty")
    return lambda session: ingest.record_members(session, claim, file.id, found)


def _rejected(claim: jobs.Claim, file: DatasetFile, reason: str) -> Fate:
    log.info("ingest.rejected", dataset=claim.subject_id, file=file.id, reason=reason)
    return lambda session: ingest.reject(session, claim, file.id, reason)
