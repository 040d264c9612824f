"""What the API takes and answers about uploads besides the tus protocol, which speaks in headers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.common import Answer, moment
from catalog.uploads.models import Upload

MAX_ASKED = 1000


class ArrivingUpload(Answer):
    """An upload that waits for more bytes."""

    id: str
    url: str
    """Where its bytes go (tus)."""
    name: str
    sha256: str | None
    """What its client said the whole file hashes to."""
    length: int
    offset: int
    expires_at: datetime


class OfferedFile(BaseModel):
    """A file somebody has, by name and content."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ReceivedFilesIn(BaseModel):
    """Files of which is asked whether the dataset has them already."""

    model_config = ConfigDict(extra="forbid")

    files: Annotated[list[OfferedFile], Field(max_length=MAX_ASKED)]


class ReceivedFilesOut(Answer):
    """Which of the files need not be sent again."""

    received: list[bool]
    """One answer for each file, in their order."""


def arriving_upload(upload: Upload, url: str) -> ArrivingUpload:
    """A catalog row as the API shows it."""
    return ArrivingUpload(
        id=upload.id,
        url=url,
        name=upload.filename,
        sha256=upload.sha256,
        length=upload.length_bytes,
        offset=upload.received_bytes,
        expires_at=moment(upload.expires_at),
    )
