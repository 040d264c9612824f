"""The reading of a dataset's files by the light worker: how far it is, follow it, cancel it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Response
from sse_starlette.sse import EventSourceResponse

from api.deps import Here, Owner, Parts
from api.errors import problems
from api.schemas.ingest import IngestOut, ingest_out
from api.streams import STREAM, Entry, Reading, answer
from catalog.datasets import ingests
from contracts.failures import FailureCode
from contracts.ingest import ENDED

router = APIRouter(prefix="/datasets/{dataset}/ingest", tags=["datasets"])


@router.get("", summary="How far the reading of a dataset's files is", responses=problems(FailureCode.NOT_FOUND))
def read_ingest(dataset: str, here: Here, owner: Owner) -> IngestOut:
    with here.database.reading() as session:
        return ingest_out(ingests.read(session, owner, dataset))


@router.get(
    "/events",
    summary="Follow the reading of a dataset's files (server-sent events)",
    response_class=EventSourceResponse,
    responses={
        204: {"description": "It has ended and Last-Event-ID was its last event: stop reconnecting."},
        **STREAM,
        **problems(FailureCode.NOT_FOUND),
    },
)
async def follow_ingest(
    dataset: str, here: Here, owner: Owner, last_seen: Annotated[str | None, Header(alias="Last-Event-ID")] = None
) -> Response:
    """`progress` events with a number as id, and `status` events, each with the whole as `GET …/ingest` answers it.

    Numbers go up from one reading to the next. The stream ends when nothing is left to be read.
    """
    return await answer(partial(_read_progress, here, owner, dataset), last_seen, here.settings)


@router.post(
    "/cancel",
    summary="Read no more of what was offered",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.CONFLICT),
)
def cancel_ingest(dataset: str, here: Here, owner: Owner, afterwards: BackgroundTasks) -> IngestOut:
    """What was read stays in the dataset; the rest is rejected, and may be uploaded again. Twice is once.

    A worker that is reading stops before the next file, inside archives too: until then it is `cancelling`.
    """
    with here.database.session() as session:
        cancelled = ingests.cancel(session, owner, dataset)
    afterwards.add_task(_remove, here, cancelled.blob_keys)
    return ingest_out(cancelled.ingest)


def _read_progress(here: Parts, owner: str, dataset: str, after: int) -> Reading:
    with here.database.reading() as session:
        found = ingests.read(session, owner, dataset)
    told = ingest_out(found).model_dump_json()
    return Reading(
        entries=[Entry(found.seq, "progress", told)] if found.seq > after else [],
        status=f"{found.number}/{found.status}/{found.waits_for}",
        status_json=told,
        ended=found.status in ENDED,
        more=False,
    )


def _remove(here: Parts, keys: Sequence[str]) -> None:
    for key in keys:
        here.blobs.delete(key)
