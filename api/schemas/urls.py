"""What the API takes and answers about pictures named by address."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from api.schemas.common import Answer
from catalog.datasets.fetches import Offered
from contracts.captions import MAX_CAPTION_CHARACTERS
from contracts.urls import why_not_fetched


class UrlIn(BaseModel):
    """An address to fetch a picture from."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str
    """Begins with https:// or http://, without user and password; it becomes the picture's name in the ledger."""
    caption: Annotated[str, Field(max_length=MAX_CAPTION_CHARACTERS)] | None = None

    @field_validator("url")
    @classmethod
    def _can_be_fetched(cls, url: str) -> str:
        refusal = why_not_fetched(url)
        if refusal is not None:
            raise ValueError(refusal)
        return url


class UrlsIn(BaseModel):
    """A list of addresses; when any of them cannot be taken, none is, and every one is named."""

    model_config = ConfigDict(extra="forbid")

    urls: Annotated[list[UrlIn], Field(min_length=1)]


class UrlsOut(Answer):
    """What became of the list: the addresses are fetched by a worker, and the ledger tells each one's fate."""

    dataset: str
    new: int
    again: int
    """Failed before, and are tried again."""
    known: int
    """Are in the ledger already, and are not fetched again; a caption that differs is taken."""


def urls_out(dataset: str, offered: Offered) -> UrlsOut:
    """A catalog answer as the API shows it."""
    return UrlsOut(dataset=dataset, new=offered.new, again=offered.again, known=offered.known)
