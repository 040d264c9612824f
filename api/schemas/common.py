"""What several nouns' answers share: moments, pages and failures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from contracts.failures import FAILURES, FailureCode

T = TypeVar("T")


class Answer(BaseModel):
    """Base of every answer: the docstring under a field is its description in the API's schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(Answer, Generic[T]):
    """Some of a list, newest first."""

    items: list[T]
    next_cursor: str | None
    """Ask again with ``cursor`` set to this; null when these are the last."""


class Failure(Answer):
    """Why something failed, and what to do about it."""

    code: FailureCode
    message: str
    hint: str


def moment(unix_s: float) -> datetime:
    """The catalog's Unix seconds as a moment, which JSON shows in ISO 8601, UTC."""
    return datetime.fromtimestamp(unix_s, UTC)


def moment_or_none(unix_s: float | None) -> datetime | None:
    """The same for what may not have happened yet."""
    return None if unix_s is None else moment(unix_s)


def failure(code: str | None, message: str | None, hint: str | None = None) -> Failure | None:
    """A stored failure, in the words of the table where it has none of its own."""
    if code is None:
        return None
    known = FailureCode(code)
    return Failure(code=known, message=message or FAILURES[known].message, hint=hint or FAILURES[known].hint)
