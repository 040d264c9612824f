"""What every route is given: the parts of the process, and who asks. Knows no nouns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from api.settings import ApiSettings
from broker.settings import BrokerSettings
from catalog.blobs import BlobStore
from catalog.db import Database
from catalog.paging import DEFAULT_LIMIT, MAX_LIMIT


@dataclass(frozen=True)
class Parts:
    """What one API process works with; made once, by create_app."""

    settings: ApiSettings
    database: Database
    blobs: BlobStore
    broker: BrokerSettings


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


Here = Annotated[Parts, Depends(_parts)]
Owner = Annotated[str, Depends(_owner)]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many, newest first")]
PAGE = DEFAULT_LIMIT
