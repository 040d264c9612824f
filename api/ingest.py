"""Takes received files into a dataset: what can be judged by its name and first bytes is judged here at once.

Everything else is the light worker's: it alone decodes pixels and opens archives.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.orm import Session

from api.deps import Parts
from api.schemas.common import Failure
from api.schemas.datasets import UploadedFile, UploadOut
from api.space import told_when_full
from api.uploads import Received
from catalog.blobs import upload_key
from catalog.uploads import service as uploads
from catalog.uploads.limits import filled
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.layouts import FileKind, kind_of, why_not


class Stored(NamedTuple):
    """Where a file lies now, if it was accepted, and what it is, if all of it arrived."""

    key: str | None
    sha256: str | None


def take_in(here: Parts, owner: str, dataset: str, received: list[Received]) -> UploadOut:
    """Store every acceptable file, enter all of them into the ledger, and have the accepted ones read.

    Blobs first, then one short transaction; when that is refused the blobs are removed again. After any other error
    of its nobody knows whether the commit came through: the collector takes what did not.
    """
    _judge_all(here, owner, dataset, received)
    stored: list[Stored] = []
    try:
        with told_when_full():
            for one in received:
                stored.append(_store(here, owner, one))
        with here.database.session() as session:
            for one, blob in zip(received, stored, strict=True):
                _enter(session, owner, dataset, one, blob)
    except PatinaError:
        for blob in stored:
            if blob.key is not None:
                here.blobs.delete(blob.key)
        raise
    files = [_told(one) for one in received]
    accepted = sum(one.accepted for one in files)
    return UploadOut(dataset=dataset, accepted=accepted, refused=len(files) - accepted, files=files)


def refuse_empty_upload(answer: UploadOut) -> None:
    """A request of which nothing was accepted is a problem: of the one kind they share, or of many.

    Raises:
        PatinaError: no file was accepted.
    """
    refused = [one.problem for one in answer.files if one.problem is not None]
    if answer.accepted:
        return
    if len(refused) == 1 and refused[0].code is not FailureCode.INVALID_INPUT:
        raise PatinaError(refused[0].code, refused[0].message, refused[0].hint)
    listed = [FieldError(pointer=f"/files/{i}", message=problem.message) for i, problem in enumerate(refused)]
    raise InvalidInput(listed, "None of the files can be accepted.", refused[0].hint)


def judge_name(name: str) -> PatinaError | None:
    """Why a file of this name could never be used, if so."""
    if kind_of(name) is FileKind.OTHER:
        return InvalidInput([], f"{name} is not taken: {why_not(name)}.", "Send pictures with captions.")
    return None


def _judge_all(here: Parts, owner: str, dataset: str, received: list[Received]) -> None:
    with here.database.reading() as session:
        room = filled(session, owner, dataset, here.settings.dataset_limits)
    for one in received:
        one.problem = one.problem or _judge(one) or room.add(one.name, one.bytes)


def _judge(one: Received) -> PatinaError | None:
    problem = judge_name(one.name)
    if problem is not None:
        return problem
    if kind_of(one.name) is FileKind.ARCHIVE and not _is_zip(one.path):
        return PatinaError(FailureCode.NOT_A_ZIP, f"{one.name} is named .zip but is not a zip archive.")
    return None


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, OverflowError, ValueError):  # one that says it goes on in other files, for instance
        return False


def _store(here: Parts, owner: str, one: Received) -> Stored:
    if one.problem is not None:
        return Stored(None, _content(one))
    key = upload_key(owner)
    return Stored(key, here.blobs.put_file(key, one.path))


def _content(one: Received) -> str | None:
    """The hash of a refused file; None when it was too large to be kept."""
    if one.path.stat().st_size != one.bytes:
        return None
    with one.path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _enter(session: Session, owner: str, dataset: str, one: Received, blob: Stored) -> None:
    if one.problem is not None:
        uploads.note_refused(session, owner, dataset, one.name, one.bytes, one.problem.message, blob.sha256)
    elif blob.key is not None and blob.sha256 is not None:
        uploads.offer(session, owner, dataset, one.name, blob.key, one.bytes, blob.sha256)


def _told(one: Received) -> UploadedFile:
    problem = one.problem and Failure(code=one.problem.code, message=one.problem.message, hint=one.problem.hint)
    return UploadedFile(name=one.name, bytes=one.bytes, accepted=problem is None, problem=problem)
