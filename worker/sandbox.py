"""Processes that open files nobody has vouched for: how they are started, limited and spoken to.

A child speaks over a socket that is its stdin, has no key or address in its environment, and limits its own memory,
processor time and files before it reads the first byte. Knows nothing about what the files are.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

LENGTH = struct.Struct(">Q")
"""Every message on a channel is its length and its bytes."""

CHUNK_BYTES = 1024**2


def start(
    command: Sequence[str], timeout_s: float, pass_fds: Sequence[int] = ()
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A child, and our end of the channel to it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(timeout_s)
    # Its own environment: a child that is taken over finds no key and no address in it.
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    with theirs:
        child = subprocess.Popen(
            list(command),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            env=environment,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    return child, ours


def send(channel: socket.socket, part: bytes) -> None:
    """One message."""
    channel.sendall(LENGTH.pack(len(part)))
    channel.sendall(part)


def receive(channel: socket.socket, most_bytes: int) -> bytes:
    """One message; what a child claims about its length is not believed beyond ``most_bytes``.

    Raises:
        EOFError: the other side hung up, or claims more than it may send.
        TimeoutError: it did not send all of it within the channel's time-out, however steadily it sends.
    """
    timeout_s = channel.gettimeout()
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        (length,) = LENGTH.unpack(_exactly(channel, LENGTH.size, ends_at))
        if length > most_bytes:
            raise EOFError(f"a message of {length} bytes")
        return _exactly(channel, length, ends_at)
    finally:
        channel.settimeout(timeout_s)


def limit_process(memory_bytes: int) -> None:
    """Called by the child about itself: memory, no core dump, no file of any length."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def allow_cpu(seconds: int) -> None:
    """Processor time of the child from now on; the kernel ends it when that is used up."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _exactly(channel: socket.socket, length: int, ends_at: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        if ends_at is not None:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the child takes too long")
            channel.settimeout(left_s)
        part = channel.recv(min(length - len(parts), CHUNK_BYTES))
        if not part:
            raise EOFError("the child hung up")
        parts += part
    return bytes(parts)
