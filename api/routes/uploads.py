"""Uploads in any number of requests, by tus 1.0.0, for files too large to send again from the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api import tus
from api.deps import Here, Owner, Parts
from api.errors import problems
from api.ingest import judge_name
from api.resumable import receive
from api.schemas.uploads import ArrivingUpload, ReceivedFilesIn, ReceivedFilesOut, arriving_upload
from api.space import refuse_full_disk
from catalog.datasets import service as datasets
from catalog.datasets.captions import tidy_name
from catalog.uploads import service
from catalog.uploads.limits import filled
from catalog.uploads.models import Upload
from contracts.failures import FailureCode, PatinaError

NO_STORE = "no-store"


async def _speaks_tus(request: Request) -> None:
    tus.refuse_other_version(request.headers)


router = APIRouter(tags=["uploads"])
TUS = [Depends(_speaks_tus)]
REFUSALS = (
    FailureCode.BAD_UPLOAD_HEADERS,
    FailureCode.UNSUPPORTED_PROTOCOL,
    FailureCode.NOT_FOUND,
    FailureCode.TOO_LARGE,
    FailureCode.STORAGE_FULL,
)
OVERRIDE = "x-http-method-override"


@router.options("/uploads", summary="What this tus server can do", status_code=204)
def describe_uploads(here: Here) -> Response:
    return Response(status_code=204, headers=tus.options_headers(here.settings.max_file_bytes))


@router.post(
    "/uploads", summary="Begin an upload (tus)", status_code=201, dependencies=TUS, responses=problems(*REFUSALS)
)
def begin_upload(request: Request, here: Here, owner: Owner) -> Response:
    """`Upload-Length`, and `Upload-Metadata` with `dataset`, `filename` and, to have the whole checked, `sha256`."""
    length_bytes, said = tus.read_number(request.headers, "Upload-Length"), tus.read_metadata(request.headers)
    said = replace(said, filename=tidy_name(said.filename) or "unnamed")
    problem = judge_name(said.filename) or _judge_length(here, said.filename, length_bytes)
    if problem is None:
        refuse_full_disk(here, 2 * length_bytes)  # its pieces, and the whole that is made of them
    announced = service.Announced(
        said.dataset, said.filename, length_bytes, said.sha256, request.headers.get("upload-metadata", "")
    )
    keep_s = here.settings.upload_expires_s
    with here.database.session() as session:
        dataset = datasets.read(session, owner, said.dataset)
        room = filled(session, owner, dataset.id, here.settings.dataset_limits)
        problem = problem or room.add(said.filename, length_bytes)
        if problem is None:
            upload = service.begin(session, owner, announced, keep_s)
        else:  # before its bytes travel; the ledger tells of it all the same
            service.note_refused(session, owner, dataset.id, said.filename, length_bytes, problem.message, said.sha256)
    if problem is not None:
        raise problem
    if length_bytes == 0:
        empty = service.store_piece(here.blobs, owner, 0, b"")
        service.complete(here.database, here.blobs, owner, upload.id, [empty], keep_s)
    headers = {"Location": _url(upload), "Upload-Expires": tus.expires(upload.expires_at)}
    return Response(status_code=201, headers=headers)


@router.get("/uploads", summary="Uploads to a dataset that wait for more bytes", responses=problems(*REFUSALS[2:3]))
def list_uploads(
    here: Here, owner: Owner, dataset: Annotated[str, Query(description="id or name")]
) -> list[ArrivingUpload]:
    with here.database.reading() as session:
        return [arriving_upload(upload, _url(upload)) for upload in service.unfinished(session, owner, dataset)]


@router.head(
    "/uploads/{upload}",
    summary="How far an upload is (tus)",
    dependencies=TUS,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.UNSUPPORTED_PROTOCOL),
)
def read_upload(upload: str, here: Here, owner: Owner) -> Response:
    with here.database.reading() as session:
        found = service.read(session, owner, upload)
    headers = {
        "Upload-Offset": str(found.received_bytes),
        "Upload-Length": str(found.length_bytes),
        "Upload-Metadata": found.metadata_header,
        "Upload-Expires": tus.expires(found.expires_at),
        "Cache-Control": NO_STORE,
    }
    return Response(status_code=200, headers=headers)


@router.patch(
    "/uploads/{upload}",
    summary="Add bytes at the offset (tus)",
    status_code=204,
    dependencies=TUS,
    openapi_extra={"requestBody": {"content": {tus.BODY_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
    responses=problems(*REFUSALS, FailureCode.CONFLICT, FailureCode.CHECKSUM_MISMATCH),
)
async def add_to_upload(upload: str, request: Request, here: Here, owner: Owner) -> Response:
    """With the last byte the file is offered to its dataset, as one of a multipart upload is, and read."""
    offset, checksum = tus.read_number(request.headers, "Upload-Offset"), tus.read_checksum(request.headers)
    found = await run_in_threadpool(_at, here, owner, upload, offset)
    offset = await receive(request, here, owner, found, checksum)
    found = await run_in_threadpool(_read, here, owner, upload)
    headers = {"Upload-Offset": str(offset), "Upload-Expires": tus.expires(found.expires_at)}
    return Response(status_code=204, headers=headers)


@router.delete(
    "/uploads/{upload}",
    summary="Give an upload up (tus)",
    status_code=204,
    dependencies=TUS,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.UNSUPPORTED_PROTOCOL),
)
def give_up_upload(upload: str, here: Here, owner: Owner) -> Response:
    """What arrived is removed. A file that arrived whole belongs to its dataset and stays."""
    service.terminate(here.database, here.blobs, owner, upload)
    return Response(status_code=204)


@router.post("/uploads/{upload}", include_in_schema=False, dependencies=TUS)
async def override_method(upload: str, request: Request, here: Here, owner: Owner) -> Response:
    """For clients that cannot send PATCH or DELETE; only a POST is ever taken for another method."""
    method = request.headers.get(OVERRIDE, "").upper()
    if method == "PATCH":
        return await add_to_upload(upload, request, here, owner)
    if method == "DELETE":
        return await run_in_threadpool(give_up_upload, upload, here, owner)
    raise PatinaError(FailureCode.METHOD_NOT_ALLOWED, hint="Send X-HTTP-Method-Override: PATCH or DELETE.")


@router.post(
    "/datasets/{dataset}/received-files",
    summary="Which files a dataset has been sent already",
    responses=problems(FailureCode.NOT_FOUND),
)
def which_are_received(dataset: str, body: ReceivedFilesIn, here: Here, owner: Owner) -> ReceivedFilesOut:
    """By name and sha256, of your own datasets alone."""
    with here.database.reading() as session:
        asked = [(file.name, file.sha256) for file in body.files]
        return ReceivedFilesOut(received=service.known(session, owner, dataset, asked))


def _judge_length(here: Parts, filename: str, length_bytes: int) -> PatinaError | None:
    if length_bytes <= here.settings.max_file_bytes:
        return None
    return PatinaError(
        FailureCode.TOO_LARGE,
        f"{filename} is over {here.settings.max_file_bytes} bytes (PATINA_MAX_FILE_BYTES).",
        "Make the file smaller, or raise PATINA_MAX_FILE_BYTES on the server.",
    )


def _at(here: Parts, owner: str, upload: str, offset: int) -> Upload:
    found = _read(here, owner, upload)
    if found.received_bytes != offset:
        raise PatinaError(
            FailureCode.CONFLICT,
            f"The upload is at offset {found.received_bytes}, not {offset}.",
            "Ask for its offset with HEAD and go on from there.",
        )
    return found


def _read(here: Parts, owner: str, upload: str) -> Upload:
    with here.database.reading() as session:
        return service.read(session, owner, upload)


def _url(upload: Upload) -> str:
    return f"{tus.UPLOADS_PATH}/{upload.id}"
