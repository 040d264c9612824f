"""The frozen versions of a dataset: what two of them differ in, and one as a file to take home."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from starlette.responses import StreamingResponse

from api import parquet
from api.deps import Here, Owner, Parts
from api.errors import problems
from api.removals import RESPONSES, DryRun, Keep, Remove, gone, told
from api.schemas.versions import DifferenceOut, difference_out
from catalog import removing
from catalog.datasets import imagefolder, service
from catalog.datasets.comparing import compare
from catalog.datasets.versions import VersionImage
from contracts.failures import FailureCode
from contracts.removal import Subject, choice_of

router = APIRouter(prefix="/datasets", tags=["datasets"])

ZIP = "application/zip"
PARQUET = "application/vnd.apache.parquet"

Number = Annotated[int | Literal["latest"], Path(description="its number, or `latest`")]


@router.get(
    "/{dataset}/versions/{version}/diff",
    summary="What a version differs in from another",
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def compare_versions(
    dataset: str,
    version: Number,
    here: Here,
    owner: Owner,
    against: Annotated[int, Query(ge=1, description="number of the version to compare with")],
) -> DifferenceOut:
    with here.database.reading() as session:
        newer = service.read_version(session, owner, dataset, _number(version))
        older = service.read_version(session, owner, dataset, against)
        rows = [[entry.row for entry in service.version_contents(session, owner, found.id)] for found in (older, newer)]
    return difference_out(newer.number, older.number, compare(*rows))


@router.delete(
    "/{dataset}/versions/{version}",
    summary="Withdraw a version",
    status_code=204,
    responses=RESPONSES,
    response_model=None,
)
def remove_version(
    dataset: str,
    version: Annotated[int, Path(ge=1)],
    here: Here,
    owner: Owner,
    keep: Keep = None,
    remove: Remove = None,
    dry_run: DryRun = False,
) -> Response:
    """Its images and captions go; number and digest stay named, and no run may use it. When runs or weights came of it:
    `keep=history` or `remove=runs,weights`."""
    choice = choice_of(Subject.VERSION, keep, remove)
    with here.database.session() as session:
        if dry_run:
            return told(Subject.VERSION, removing.came_of_version(session, owner, dataset, version))
        removing.remove_version(session, owner, dataset, version, choice)
    return gone()


@router.get(
    "/{dataset}/versions/{version}/imagefolder.zip",
    summary="Download a version as an imagefolder",
    response_class=StreamingResponse,
    responses={200: {"content": {ZIP: {}}}, **problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT)},
)
def download_imagefolder(dataset: str, version: Number, here: Here, owner: Owner) -> StreamingResponse:
    """Images and `metadata.jsonl`, as Hugging Face datasets reads them; made while it is sent."""
    stem, contents = _named_contents(dataset, version, here, owner)
    return StreamingResponse(
        imagefolder.pieces(contents, here.blobs),
        media_type=ZIP,
        headers={"content-disposition": f'attachment; filename="{stem}.zip"'},
    )


@router.get(
    "/{dataset}/versions/{version}/parquet",
    summary="Download a version as Parquet",
    response_class=StreamingResponse,
    responses={200: {"content": {PARQUET: {}}}, **problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT)},
)
def download_parquet(dataset: str, version: Number, here: Here, owner: Owner) -> StreamingResponse:
    """What runs are trained on, as `datasets.load_dataset("parquet")` opens it; made while it is sent."""
    stem, contents = _named_contents(dataset, version, here, owner)
    return StreamingResponse(
        parquet.pieces(contents, here.settings.storage),
        media_type=PARQUET,
        headers={"content-disposition": f'attachment; filename="{stem}.parquet"'},
    )


def _named_contents(dataset: str, version: int | str, here: Parts, owner: str) -> tuple[str, list[VersionImage]]:
    """What a download is called, without extension, and what goes into it."""
    with here.database.reading() as session:
        name = service.read(session, owner, dataset).name
        found = service.read_version(session, owner, dataset, _number(version))
        return f"{name}-v{found.number}", service.version_contents(session, owner, found.id)


def _number(version: int | str) -> int | None:
    return version if isinstance(version, int) else None
