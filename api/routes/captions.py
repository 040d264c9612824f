"""The images of a dataset and their captions: look, edit one or all, undo, take out, put back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.deps import PAGE, Here, Limit, Owner
from api.errors import problems
from api.preconditions import BasedOn, etag
from api.removals import RESPONSES, DryRun, Keep, Remove, gone, told
from api.schemas.captions import (
    EditedOut,
    ImageIn,
    ImageOut,
    ImagesOut,
    RewriteIn,
    edited_out,
    image_out,
    rewriting_of,
)
from catalog import removing
from catalog.datasets import editing
from contracts.failures import FailureCode
from contracts.removal import Subject, choice_of

router = APIRouter(prefix="/datasets", tags=["datasets"])

CHANGES = problems(FailureCode.NOT_FOUND, FailureCode.PRECONDITION_FAILED, FailureCode.PRECONDITION_REQUIRED)


@router.get("/{dataset}/images", summary="Images and their captions", responses=problems(FailureCode.NOT_FOUND))
def list_images(
    dataset: str,
    here: Here,
    owner: Owner,
    response: Response,
    cursor: Annotated[str, Query(description="`next_cursor` of the part before", max_length=64)] = "",
    limit: Limit = PAGE,
    removed: Annotated[bool, Query(description="those taken out instead")] = False,
) -> ImagesOut:
    with here.database.reading() as session:
        found = editing.list_images(session, owner, dataset, cursor, limit, removed=removed)
        response.headers["ETag"] = etag(found.revision)
        return ImagesOut(items=[image_out(image) for image in found.items], next_cursor=found.next_cursor)


@router.patch(
    "/{dataset}/images/{image}", summary="Change one image's caption, take it out or put it back", responses=CHANGES
)
def change_image(
    dataset: str, image: str, body: ImageIn, here: Here, owner: Owner, based_on: BasedOn, response: Response
) -> ImageOut:
    with here.database.session() as session:
        if "caption" in body.model_fields_set:
            edited = editing.write_caption(session, owner, dataset, image, body.caption, based_on)
            based_on = frozenset({edited.revision})
        if "removed" in body.model_fields_set:
            change = editing.remove_image if body.removed else editing.restore_image
            based_on = frozenset({change(session, owner, dataset, image, based_on)})
        if "split" in body.model_fields_set:
            based_on = frozenset({editing.mark_image(session, owner, dataset, image, body.split, based_on)})
        changed = editing.read_image(session, owner, dataset, image)
        answer = image_out(changed)
    for revision in based_on or ():
        response.headers["ETag"] = etag(revision)
    return answer


@router.delete(
    "/{dataset}/images/{image}",
    summary="Take an image out, or away everywhere",
    status_code=204,
    responses={**RESPONSES, **problems(FailureCode.PRECONDITION_FAILED, FailureCode.PRECONDITION_REQUIRED)},
    response_model=None,
)
def remove_image(
    dataset: str,
    image: str,
    here: Here,
    owner: Owner,
    based_on: BasedOn,
    keep: Keep = None,
    remove: Remove = None,
    dry_run: DryRun = False,
) -> Response:
    """One that no version holds goes for good. Else: `keep=history` (out of this dataset, can be put back),
    `remove=versions` (away everywhere, versions that hold it are withdrawn) or `remove=versions,runs,weights`."""
    choice = choice_of(Subject.IMAGE, keep, remove)
    with here.database.session() as session:
        if dry_run:
            return told(Subject.IMAGE, removing.came_of_image(session, owner, dataset, image))
        removing.remove_image(session, owner, dataset, image, choice, based_on)
    return gone()


@router.post("/{dataset}/captions/edits", summary="Edit every caption", responses=CHANGES)
def edit_captions(
    dataset: str,
    body: RewriteIn,
    here: Here,
    owner: Owner,
    based_on: BasedOn,
    response: Response,
    dry_run: Annotated[bool, Query(description="only say what would change")] = False,
) -> EditedOut:
    """Find and replace, prefix, suffix or trigger word; one `undo` takes the whole edit back."""
    rewriting = rewriting_of(body)
    if dry_run:
        with here.database.reading() as session:
            edited = editing.preview_rewriting(session, owner, dataset, rewriting)
    else:
        with here.database.session() as session:
            edited = editing.rewrite_captions(session, owner, dataset, body.action, rewriting, based_on)
    response.headers["ETag"] = etag(edited.revision)
    return edited_out(edited, dry_run=dry_run)


@router.post(
    "/{dataset}/captions/undo",
    summary="Take back the last edit of captions",
    responses={**CHANGES, **problems(FailureCode.CONFLICT)},
)
def undo(dataset: str, here: Here, owner: Owner, based_on: BasedOn, response: Response) -> EditedOut:
    with here.database.session() as session:
        edited = editing.undo(session, owner, dataset, based_on)
    response.headers["ETag"] = etag(edited.revision)
    return edited_out(edited)
