"""Datasets: create, upload files, follow each file's fate, freeze a version."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from api.deps import PAGE, Cursor, Here, Limit, Owner
from api.errors import problems
from api.ingest import refuse_empty_upload, take_in
from api.removals import RESPONSES, DryRun, Keep, Remove, gone, told
from api.schemas.common import Page
from api.schemas.datasets import (
    DatasetIn,
    DatasetOut,
    FreezeIn,
    UploadOut,
    VersionOut,
    dataset_out,
    version_out,
)
from api.space import refuse_full_disk, told_when_full
from api.uploads import announced_length, receive_files, temporary_folder
from catalog import removing
from catalog.datasets import service
from contracts.failures import FailureCode
from contracts.removal import Subject, choice_of

router = APIRouter(prefix="/datasets", tags=["datasets"])

FILES_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "Images (.png .jpg .jpeg .webp), captions beside them (.txt .caption), "
                            "metadata.jsonl, or a .zip of these.",
                        }
                    },
                }
            }
        },
    }
}


@router.post("", summary="Create a dataset", status_code=201, responses=problems(FailureCode.CONFLICT))
def create_dataset(body: DatasetIn, here: Here, owner: Owner, response: Response) -> DatasetOut:
    with here.database.session() as session:
        made = service.create(session, owner, body.name)
    response.headers["Location"] = f"/api/v1/datasets/{made.id}"
    return dataset_out(made)


@router.get("", summary="List datasets")
def list_datasets(here: Here, owner: Owner, cursor: Cursor = None, limit: Limit = PAGE) -> Page[DatasetOut]:
    with here.database.reading() as session:
        found = service.list_datasets(session, owner, cursor, limit)
        return Page(items=[dataset_out(dataset) for dataset in found.items], next_cursor=found.next_cursor)


@router.get("/{dataset}", summary="Read a dataset by id or name", responses=problems(FailureCode.NOT_FOUND))
def read_dataset(dataset: str, here: Here, owner: Owner) -> DatasetOut:
    with here.database.reading() as session:
        return dataset_out(service.read(session, owner, dataset))


@router.delete("/{dataset}", summary="Remove a dataset", status_code=204, responses=RESPONSES, response_model=None)
def remove_dataset(
    dataset: str, here: Here, owner: Owner, keep: Keep = None, remove: Remove = None, dry_run: DryRun = False
) -> Response:
    """With its ledger and images. When versions, runs or weights came of it, say what shall become of them:
    `keep=history` or `remove=versions,runs,weights`."""
    choice = choice_of(Subject.DATASET, keep, remove)
    with here.database.session() as session:
        if dry_run:
            return told(Subject.DATASET, removing.came_of_dataset(session, owner, dataset))
        removing.remove_dataset(session, owner, dataset, choice)
    return gone()


@router.post(
    "/{dataset}/files",
    summary="Upload images, captions, metadata.jsonl and zips",
    status_code=202,
    openapi_extra=FILES_BODY,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.TOO_LARGE, FailureCode.NOT_A_ZIP, FailureCode.STORAGE_FULL),
)
async def upload_files(dataset: str, request: Request, here: Here, owner: Owner) -> UploadOut:
    """Each file is judged by itself: the answer says which were accepted, the ledger what became of them.

    Names may be relative paths (`set/cat.png`), so that captions find their images. When no file at all can be
    accepted, the answer is a problem.
    """
    known = await run_in_threadpool(read_dataset, dataset, here, owner)
    announced_bytes = announced_length(request)
    await run_in_threadpool(refuse_full_disk, here, announced_bytes, announced_bytes)
    with told_when_full(), temporary_folder(here.settings.uploads) as folder:
        received = await receive_files(request, folder, here.settings.upload_limits)
        answer = await run_in_threadpool(take_in, here, owner, known.id, received)
    refuse_empty_upload(answer)
    return answer


@router.post(
    "/{dataset}/versions",
    summary="Freeze a version",
    status_code=201,
    responses={
        200: {"model": VersionOut, "description": "The same content had been frozen before; this is that version."},
        **problems(
            FailureCode.NOT_FOUND,
            FailureCode.UNFINISHED_INGEST,
            FailureCode.EMPTY_DATASET,
            FailureCode.DOUBTFUL_DATASET,
        ),
    },
)
def freeze_version(
    dataset: str, here: Here, owner: Owner, response: Response, body: FreezeIn | None = None
) -> VersionOut:
    body = body or FreezeIn()
    with here.database.session() as session:
        frozen = service.freeze(session, owner, dataset, body.held_out_share, accept_warnings=body.accept_warnings)
    response.status_code = 201 if frozen.created else 200
    return version_out(frozen.version)


@router.get("/{dataset}/versions", summary="List frozen versions", responses=problems(FailureCode.NOT_FOUND))
def list_versions(dataset: str, here: Here, owner: Owner) -> Page[VersionOut]:
    with here.database.reading() as session:
        versions = [version_out(version) for version in service.list_versions(session, owner, dataset)]
    return Page(items=versions, next_cursor=None)
