"""Pictures by content hash: generated, previews of runs, images of datasets; only their owner's."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from api.deps import Here, Owner
from api.downloads import FILE_RESPONSES, blob_response
from api.errors import problems
from catalog.generations import service
from contracts.failures import FailureCode, PatinaError

router = APIRouter(prefix="/images", tags=["images"])


@router.get(
    "/{sha256}",
    summary="Read a picture",
    response_class=Response,
    responses={**FILE_RESPONSES, **problems(FailureCode.NOT_FOUND)},
)
def read_image(
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], request: Request, here: Here, owner: Owner
) -> Response:
    with here.database.reading() as session:
        key = service.find_image(session, owner, sha256)
    if key is None:
        raise PatinaError(FailureCode.NOT_FOUND, "There is no picture with this hash.")
    return blob_response(
        request,
        partial(here.blobs.open, key),
        size_bytes=here.blobs.size(key),
        sha256=sha256,
        media_type="image/png",
        filename=f"{sha256[:16]}.png",
        attachment=False,
    )
