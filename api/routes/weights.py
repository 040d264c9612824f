"""Registered weights: list, read, download."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from api.deps import PAGE, Cursor, Here, Limit, Owner
from api.downloads import FILE_RESPONSES, blob_response
from api.errors import problems
from api.schemas.common import Page
from api.schemas.weights import WeightsName, WeightsOut, weights_out
from catalog import removing
from catalog.registry import service
from contracts.failures import FailureCode

router = APIRouter(prefix="/weights", tags=["weights"])

Version = Annotated[str, Path(description="A number, `latest`, `best`, or an alias of your own")]


@router.get("", summary="List weights, every version")
def list_weights(
    here: Here,
    owner: Owner,
    cursor: Cursor = None,
    limit: Limit = PAGE,
    name: Annotated[str | None, Query(description="only this name's versions")] = None,
) -> Page[WeightsOut]:
    with here.database.reading() as session:
        found = service.list_weights(session, owner, cursor, limit, name)
        return Page(items=weights_out(session, owner, found.items), next_cursor=found.next_cursor)


@router.get("/{name}", summary="All versions of a name", responses=problems(FailureCode.NOT_FOUND))
def read_name(name: str, here: Here, owner: Owner) -> WeightsName:
    with here.database.reading() as session:
        versions = service.list_versions(session, owner, name)
        return WeightsName(name=name, versions=weights_out(session, owner, versions))


@router.get("/{name}/{version}", summary="Read one version", responses=problems(FailureCode.NOT_FOUND))
def read_version(name: str, version: Version, here: Here, owner: Owner) -> WeightsOut:
    with here.database.reading() as session:
        return weights_out(session, owner, [service.read_version(session, owner, name, version)])[0]


@router.delete(
    "/{name}/{version}",
    summary="Remove one version",
    status_code=204,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def remove_version(name: str, version: Version, here: Here, owner: Owner) -> Response:
    """With the aliases that mean it; its number is not given again. Pictures made with it stay."""
    with here.database.session() as session:
        removing.remove_weights(session, owner, name, version)
    return Response(status_code=204)


@router.get(
    "/{name}/{version}/file",
    summary="Download the safetensors file",
    response_class=Response,
    responses={**FILE_RESPONSES, **problems(FailureCode.NOT_FOUND)},
)
def download(name: str, version: Version, request: Request, here: Here, owner: Owner) -> Response:
    with here.database.reading() as session:
        weights = service.read_version(session, owner, name, version)
    return blob_response(
        request,
        partial(here.blobs.open, weights.blob_key),
        size_bytes=here.blobs.size(weights.blob_key),
        sha256=weights.sha256,
        media_type="application/octet-stream",
        filename=f"{weights.name}-v{weights.version}.safetensors",
        # An alias moves on, so its address must be asked again; a number's content never changes.
        immutable=version == str(weights.version),
    )
