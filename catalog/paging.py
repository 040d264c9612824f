"""Lists, newest first, one page at a time. Knows nothing about what is listed.

The cursor names the last row seen, so that rows added meanwhile neither repeat nor hide others, and the cost of
a page does not grow with its depth.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from catalog.db import Listed
from contracts.failures import FieldError, InvalidInput

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


T = TypeVar("T")
R = TypeVar("R", bound=Listed)


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows, and the cursor of the next ones; None when these are the last."""

    items: Sequence[T]
    next_cursor: str | None


def page(session: Session, query: Select[R], model: type[R], cursor: str | None, limit: int = DEFAULT_LIMIT) -> Page[R]:
    """One page of ``query``, newest first, after the row ``cursor`` names.

    Raises:
        InvalidInput: the cursor was not made here, or the limit is out of range.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput([FieldError(pointer="/limit", message=f"must be between 1 and {MAX_LIMIT}")])
    if cursor is not None:
        query = query.where(tuple_(model.created_at, model.id) < tuple_(*_decode(cursor)))
    rows = session.scalars(query.order_by(model.created_at.desc(), model.id.desc()).limit(limit + 1)).all()
    more = len(rows) > limit
    items = rows[:limit]
    return Page(items, _encode(items[-1]) if more else None)


def _encode(row: Listed) -> str:
    position = [row.created_at, row.id]
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[float, str]:
    try:
        created_at, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, RecursionError, TypeError, ValueError):
        raise _not_made_here() from None
    ours = isinstance(created_at, float) and isinstance(row_id, str) and row_id.isascii() and row_id.isprintable()
    if not ours or not math.isfinite(created_at):
        raise _not_made_here()
    return created_at, row_id


def _not_made_here() -> InvalidInput:
    message = "is not a cursor of this server; start again without one"
    return InvalidInput([FieldError(pointer="/cursor", message=message)])
