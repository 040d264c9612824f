"""Base models: list and read. They are added on the server alone, with `patina bases add`."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import PAGE, Cursor, Here, Limit, Owner
from api.errors import problems
from api.schemas.bases import BaseOut, base_out
from api.schemas.common import Page
from catalog.bases import service
from contracts.failures import FailureCode, PatinaError

router = APIRouter(prefix="/bases", tags=["bases"])


@router.get("", summary="List base models", responses=problems(FailureCode.INVALID_INPUT))
def list_bases(here: Here, owner: Owner, cursor: Cursor = None, limit: Limit = PAGE) -> Page[BaseOut]:
    with here.database.reading() as session:
        found = service.list_bases(session, owner, cursor, limit)
        return Page(items=[base_out(base) for base in found.items], next_cursor=found.next_cursor)


@router.get("/{name}", summary="Read a base model", responses=problems(FailureCode.NOT_FOUND))
def read_base(name: str, here: Here, owner: Owner) -> BaseOut:
    with here.database.reading() as session:
        try:
            return base_out(service.read(session, owner, name))
        except PatinaError as error:
            # Unknown in the address is "not found"; unknown in a body stays a wrong field.
            raise PatinaError(FailureCode.NOT_FOUND, error.message, error.hint) from None
