"""The ledger of a dataset: what became of every file ever offered, as JSON, as CSV and in numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from api import measures
from api.deps import Here, Owner
from api.errors import problems
from api.schemas.ledger import LedgerOut, TallyOut, csv_lines, ledger_row, tally_out
from catalog.bases import service as bases
from catalog.datasets import ledger, service
from contracts.buckets import Bucket
from contracts.dataset import Fate
from contracts.failures import FailureCode, FieldError, InvalidInput

router = APIRouter(prefix="/datasets", tags=["datasets"])

LEDGER_LIMIT = 1000
CSV = "text/csv"

FateOnly = Annotated[Fate | None, Query(description="only rows that met this fate")]
Resolution = Annotated[int | None, Query(ge=64, le=4096, description="say the bucket and crop at this resolution")]
OnBase = Annotated[str | None, Query(description="say the bucket and crop of a run on this base")]


@router.get(
    "/{dataset}/ledger",
    summary="Every offered file and its fate",
    response_model=LedgerOut,
    responses={200: {"content": {CSV: {}}}, **problems(FailureCode.NOT_FOUND, FailureCode.UNKNOWN_BASE)},
)
def read_ledger(
    dataset: str,
    here: Here,
    owner: Owner,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the part before")] = None,
    limit: Annotated[int, Query(ge=1, le=LEDGER_LIMIT, description="how many, oldest first")] = LEDGER_LIMIT,
    fate: FateOnly = None,
    resolution: Resolution = None,
    base: OnBase = None,
    format: Annotated[Literal["json", "csv"] | None, Query(description="`csv` is all of it at once")] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> LedgerOut | Response:
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise InvalidInput([FieldError(pointer="/query/cursor", message="is not a cursor of this list")])
    tokenizer = here.settings.tokenizer
    if format == "csv" or (format is None and accept.split(",")[0].partition(";")[0].strip() == CSV):
        with here.database.reading() as session:
            found = service.read(session, owner, dataset)
            buckets = _buckets(session, owner, base, resolution)
        entries = ledger.read_all(here.database, owner, found.id, fate)
        lines = csv_lines(ledger_row(entry, tokenizer, buckets) for entry in entries)
        named = {"content-disposition": f'attachment; filename="{found.name}-ledger.csv"'}
        return StreamingResponse(lines, media_type=CSV, headers=named)
    with here.database.reading() as session:
        rows = ledger.read(session, owner, dataset, fate, int(cursor or 0), limit + 1)
        buckets = _buckets(session, owner, base, resolution)
    shown = [ledger_row(entry, tokenizer, buckets) for entry in rows[:limit]]
    return LedgerOut(items=shown, next_cursor=str(shown[-1].id) if len(rows) > limit else None)


@router.get("/{dataset}/ledger/summary", summary="The ledger in numbers", responses=problems(FailureCode.NOT_FOUND))
def read_tally(dataset: str, here: Here, owner: Owner) -> TallyOut:
    """Also what was probably not meant: freezing refuses while there is any."""
    with here.database.reading() as session:
        return tally_out(ledger.tally(session, owner, dataset))


def _buckets(session: Session, owner: str, base: str | None, resolution_px: int | None) -> tuple[Bucket, ...] | None:
    if base is None:
        return measures.buckets(resolution_px, None)
    return measures.buckets(resolution_px, bases.description_of(bases.read_ready(session, owner, base)).native_px)
