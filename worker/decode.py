"""Decoding pictures in a child process that may die: limits, time-out, replacement. The parent never decodes.

Knows nothing about datasets, and nothing about pixels: see worker/decode_child.py.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

LENGTH = struct.Struct(">Q")
"""Every message on the channel is its length and its bytes."""

CHILD = (sys.executable, "-m", "worker.decode_child")
TIMEOUT_S = 60.0
MAX_FILE_BYTES = 64 * 1024**2

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Decoded:
    """A picture as it is stored: upright, sRGB, on white, PNG."""

    identity: str
    width: int
    height: int
    png: bytes


@dataclass(frozen=True)
class Refused:
    """Why a file is not taken, in words for the ledger."""

    reason: str


class Decoder:
    """One decoding child, started when first needed and replaced when it dies; safe to share between threads."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, command: tuple[str, ...] = CHILD) -> None:
        self._timeout_s = timeout_s
        self._command = command
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def decode(self, data: bytes) -> Decoded | Refused:
        """Decode one file; a file that kills the child or takes too long is refused, and the next one is safe."""
        if len(data) > MAX_FILE_BYTES:
            return Refused(f"the file is larger than {MAX_FILE_BYTES // 1024**2} MB")
        with self._lock:
            try:
                answer, png = self._ask(data)
            except TimeoutError:
                self._discard("timeout")
                return Refused("decoding it takes too long")
            except (ConnectionError, EOFError, OSError) as error:
                self._discard(type(error).__name__)
                return Refused("decoding it takes more time or memory than a picture may")
        if "refused" in answer:
            if "error" in answer:
                log.info("decode.refused", error=answer["error"])
            return Refused(str(answer["refused"]))
        return Decoded(str(answer["identity"]), int(str(answer["width"])), int(str(answer["height"])), png)

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

    def _ask(self, data: bytes) -> tuple[dict[str, object], bytes]:
        channel = self._ready()
        channel.sendall(LENGTH.pack(len(data)))
        channel.sendall(data)
        answer = json.loads(_receive_part(channel))
        return answer, _receive_part(channel)

    def _ready(self) -> socket.socket:
        if self._channel is not None and self._child is not None and self._child.poll() is None:
            return self._channel
        self._discard(None)
        ours, theirs = socket.socketpair()
        ours.settimeout(self._timeout_s)
        # Its own environment: a decoder that is taken over finds no key and no address in it.
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
        with theirs:
            self._child = subprocess.Popen(
                list(self._command),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd=Path(__file__).parents[1],
                env=environment,
                start_new_session=True,
            )
        self._channel = ours
        return ours

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


def _receive_part(channel: socket.socket) -> bytes:
    (length,) = LENGTH.unpack(_receive(channel, LENGTH.size))
    return _receive(channel, length)


def _receive(channel: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = channel.recv(min(length - len(parts), 1024**2))
        if not part:
            raise EOFError("the decoding child hung up")
        parts += part
    return bytes(parts)
