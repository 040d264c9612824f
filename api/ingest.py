"""Takes received files into a dataset: what can be judged by its name and first bytes is judged here at once.

Everything else is the light worker's: it alone decodes pixels and opens archives.
"""

from __future__ import annotations

import zipfile

from sqlalchemy.orm import Session

from api.deps import Parts
from api.schemas.common import Failure
from api.schemas.datasets import UploadedFile, UploadOut
from api.uploads import Received
from catalog.blobs import upload_key
from catalog.datasets import service
from catalog.datasets.ingest import kind_of
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError


def take_in(here: Parts, owner: str, dataset: str, received: list[Received]) -> UploadOut:
    """Store every acceptable file, enter all of them into the ledger, and have the accepted ones read.

    Blobs first, then one short transaction; when that fails the blobs are removed again.
    """
    for one in received:
        one.problem = one.problem or _judge(one)
    keys: list[str | None] = []
    try:
        for one in received:
            keys.append(_store(here, owner, one))
        with here.database.session() as session:
            for one, key in zip(received, keys, strict=True):
                _enter(session, owner, dataset, one, key)
    except BaseException:
        for key in keys:
            if key is not None:
                here.blobs.delete(key)
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


def _judge(one: Received) -> PatinaError | None:
    kind = kind_of(one.name)
    if kind == "other":
        return InvalidInput(
            [],
            f"{one.name} is neither image, caption, metadata.jsonl nor zip.",
            "Send .png, .jpg, .jpeg or .webp images, .txt or .caption captions, metadata.jsonl, or a .zip of these.",
        )
    if kind == "archive" and not zipfile.is_zipfile(one.path):
        return PatinaError(FailureCode.NOT_A_ZIP, f"{one.name} is named .zip but is not a zip archive.")
    return None


def _store(here: Parts, owner: str, one: Received) -> str | None:
    if one.problem is not None:
        return None
    key = upload_key(owner)
    here.blobs.put_file(key, one.path)
    return key


def _enter(session: Session, owner: str, dataset: str, one: Received, key: str | None) -> None:
    if key is not None:
        service.offer_upload(session, owner, dataset, one.name, key, one.bytes)
    elif one.problem is not None:
        service.note_refused(session, owner, dataset, one.name, one.bytes, one.problem.message)


def _told(one: Received) -> UploadedFile:
    problem = one.problem and Failure(code=one.problem.code, message=one.problem.message, hint=one.problem.hint)
    return UploadedFile(name=one.name, bytes=one.bytes, accepted=problem is None, problem=problem)
