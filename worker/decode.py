"""Decoding pictures in a child process that may die: limits, time-out, replacement. The parent never decodes.

Knows nothing about datasets, and nothing about pixels: see worker/decode_child.py.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from worker.sandbox import receive, send, start

CHILD = (sys.executable, "-m", "worker.decode_child")
TIMEOUT_S = 60.0
MAX_FILE_BYTES = 64 * 1024**2
MAX_SIDE_SAID_PX = 1 << 16
MAX_ANSWER_BYTES = 64 * 1024
MAX_PNG_BYTES = 256 * 1024**2
"""More than 40 million pixels take as PNG."""
PNG_BEGINS = b"\x89PNG\r\n\x1a\n"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Decoded:
    """A picture as it is stored: upright, sRGB, on white, or on black if it is a mask, PNG."""

    identity: str
    width: int
    height: int
    png: bytes
    offered_width: int
    offered_height: int
    """Upright, before it was downscaled."""
    likeness: str
    """Perceptual hash."""
    alpha: str | None = None
    """Identity of its alpha channel as a mask; None where it had no transparent parts, which are white now."""
    alpha_png: bytes | None = None
    """That mask as it is stored, of the picture's size."""
    is_mask: bool = False
    """It is a mask itself: its transparent parts are black now, and no mask of it."""

    @property
    def note(self) -> str | None:
        """What was done to it that whoever offered it may not expect."""
        said = []
        if self.alpha is not None:
            said.append(
                "transparency laid on black: masked out"
                if self.is_mask
                else "transparency laid on white and kept as a mask"
            )
        if (self.offered_width, self.offered_height) != (self.width, self.height):
            said.append(f"downscaled from {self.offered_width}x{self.offered_height} to {self.width}x{self.height}")
        return "; ".join(said) or None


@dataclass(frozen=True)
class Refused:
    """Why a file is not taken, in words for the ledger."""

    reason: str


class _Taken(BaseModel):
    """What the child says of a picture; whoever took it over may say anything."""

    model_config = ConfigDict(strict=True, extra="forbid")

    identity: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE_SAID_PX)]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE_SAID_PX)]
    offered_width: Annotated[int, Field(ge=1, le=MAX_SIDE_SAID_PX)]
    offered_height: Annotated[int, Field(ge=1, le=MAX_SIDE_SAID_PX)]
    alpha: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    likeness: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class _Refused(BaseModel):
    """Why the child takes no picture from a file, and for the log what it ran into."""

    model_config = ConfigDict(strict=True, extra="forbid")

    refused: Annotated[str, Field(max_length=500)]
    error: Annotated[str, Field(max_length=500)] | None = None


_ANSWER: TypeAdapter[_Taken | _Refused] = TypeAdapter(_Taken | _Refused)


class Decoder:
    """One decoding child, started when first needed and replaced when it dies; safe to share between threads."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, command: tuple[str, ...] = CHILD) -> None:
        self._timeout_s = timeout_s
        self._command = command
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def decode(self, data: bytes, max_px: int | None = None, *, mask: bool = False) -> Decoded | Refused:
        """Decode one picture or mask, downscaled to at most ``max_px`` pixels.

        A file that kills the child or takes too long is refused, and the next one is safe.
        """
        if len(data) > MAX_FILE_BYTES:
            return Refused(f"the file is larger than {MAX_FILE_BYTES // 1024**2} MB")
        with self._lock:
            try:
                answer, png, alpha_png = self._ask(data, max_px, mask)
            except TimeoutError:
                self._discard("timeout")
                return Refused("decoding it takes too long")
            except (ConnectionError, EOFError, OSError, ValueError) as error:
                self._discard(type(error).__name__)
                return Refused("decoding it takes more time or memory than a picture may")
        if isinstance(answer, _Taken):
            return Decoded(png=png, alpha_png=alpha_png, is_mask=mask, **answer.model_dump())
        if answer.error is not None:
            log.info("decode.refused", error=answer.error)
        return Refused(answer.refused)

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._discard(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, data: bytes, max_px: int | None, mask: bool) -> tuple[_Taken | _Refused, bytes, bytes | None]:
        channel = self._ready()
        send(channel, json.dumps({"max_px": max_px, "mask": mask}).encode())
        send(channel, data)
        answer = _ANSWER.validate_json(receive(channel, MAX_ANSWER_BYTES))
        png = receive(channel, MAX_PNG_BYTES)
        alpha_png = None
        if isinstance(answer, _Taken):
            alpha_png = None if answer.alpha is None else receive(channel, MAX_PNG_BYTES)
            if not all(one.startswith(PNG_BEGINS) for one in (png, alpha_png) if one is not None):
                raise ValueError("the child speaks nonsense")
        return answer, png, alpha_png

    def _ready(self) -> socket.socket:
        if self._channel is not None and self._child is not None and self._child.poll() is None:
            return self._channel
        self._discard(None)
        self._child, self._channel = start(self._command, self._timeout_s)
        return self._channel

    def _discard(self, why: str | None) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._child is not None:
            self._child.kill()
            code = self._child.wait()
            self._child = None
            if why is not None:
                log.warning("decode.child_replaced", why=why, exit_code=code)
