"""The folder `patina up` runs in: made, checked to be writable, and held by one supervisor at a time.

Knows nothing about what runs there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from contracts.failures import FailureCode, PatinaError

FOLDERS = ("run", "logs")
MARKER = "SUPERVISED_BY_PATINA"
"""Environment variable on every process of a home, by which leftovers are found. Not one of the PATINA_* settings,
because trainers are started without those."""


class Holder(NamedTuple):
    """The supervisor that runs on a home."""

    pid: int
    url: str


def prepare(home: Path) -> None:
    """Make the home and prove that it can be written.

    Raises:
        PatinaError: HOME_UNUSABLE, with the system's reason.
    """
    try:
        for name in FOLDERS:
            (home / name).mkdir(parents=True, exist_ok=True)
        probe = home / "run" / f"probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise PatinaError(
            FailureCode.HOME_UNUSABLE, f"PATINA_HOME ({home}) cannot be written: {error.strerror}."
        ) from None


@contextlib.contextmanager
def held(home: Path, url: str) -> Iterator[None]:
    """Hold the home for this process; the kernel lets go of it when the process ends, however it ends.

    Raises:
        PatinaError: ALREADY_RUNNING, naming the process and address that hold it.
    """
    with _lock_file(home).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = _read(file.fileno())
            who = f"process {other.pid} at {other.url}" if other else "another process"
            raise PatinaError(
                FailureCode.ALREADY_RUNNING, f"Another Patina runs on this home ({home}): {who}."
            ) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "url": url}))
        file.flush()
        yield
        file.truncate(0)


def holder(home: Path) -> Holder | None:
    """Who runs on this home; None when nobody does."""
    try:
        with _lock_file(home).open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return _read(file.fileno())
    except OSError:
        return None
    return None


def home_id(home: Path) -> str:
    """The mark of a home's processes."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def free_port(host: str, port: int) -> int:
    """The port itself when it can be bound, or any free one for 0.

    Raises:
        PatinaError: PORT_IN_USE, or the system's reason why the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PatinaError(
                FailureCode.PORT_IN_USE,
                f"Port {port} of {host} cannot be used: {error.strerror}.",
                "Choose another with `patina up --port N` (0 takes any free one).",
            ) from None
        bound: int = probe.getsockname()[1]
        return bound


def address(host: str, port: int) -> str:
    """URL under which this machine reaches a server bound to ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reachable}:{port}"


def _lock_file(home: Path) -> Path:
    return home / "run" / "supervisor.lock"


def _read(descriptor: int) -> Holder | None:
    try:
        value = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(int(value["pid"]), str(value["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
