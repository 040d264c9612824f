"""ETag and If-Match of what has a revision: who changes it says which state the change was based on. Knows no nouns."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError

TAG = re.compile(r'"r(\d{1,18})"')


def etag(revision: int) -> str:
    """The ETag of a revision."""
    return f'"r{revision}"'


def _based_on(
    if_match: Annotated[str | None, Header(description="The `ETag` of what you read, or `*`")] = None,
) -> frozenset[int] | None:
    if if_match is None:
        raise PatinaError(FailureCode.PRECONDITION_REQUIRED)
    if if_match.strip() == "*":
        return None
    tags = [TAG.fullmatch(tag.strip()) for tag in if_match.split(",")]
    if not any(tags):
        raise InvalidInput([FieldError(pointer="/header/If-Match", message="is not an ETag of this server's")])
    return frozenset(int(tag[1]) for tag in tags if tag is not None)


BasedOn = Annotated[frozenset[int] | None, Depends(_based_on)]
"""Revisions the caller has seen; None means any."""
