"""What the health routes answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether everything the process needs answers; the server's log says why a part does not."""

    status: Literal["ready", "not ready"]
    checks: dict[str, Literal["ok", "unavailable"]]
