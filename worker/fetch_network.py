"""The connections of a fetch: to addresses that were checked, in the time there is. Knows nothing about HTTP.

A name is resolved once for each connection, every address it gives is checked, and the connection goes to one that
was checked: a name that changes its mind in between leads nowhere else.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore

from worker.fetch_addresses import Network, may_connect

MAX_ADDRESSES_TRIED = 3
WEB_PORTS = frozenset({80, 443})

Resolve = Callable[[str, int], Sequence[str]]
"""From a host name and port to the addresses it has now; ``socket.gaierror`` when there are none."""


@dataclass(frozen=True)
class FetchLimits:
    """Where a worker may be sent, and how much it takes from there."""

    allowed: tuple[Network, ...] = ()
    """Networks it may connect to although they are not public."""
    ports: frozenset[int] = WEB_PORTS
    max_bytes: int = 64 * 1024**2
    timeout_s: float = 30.0
    """For all of it: looking up names, redirects, the last byte."""


class NotFetched(Exception):
    """Why nothing came of it, in words for whoever gave the address; they never say where a name led.

    ``passing`` says whether trying again later may succeed.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host name, as the machine's own resolver gives them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that were checked, until the time is over; for one fetch."""

    def __init__(self, limits: FetchLimits, resolve: Resolve) -> None:
        self._limits = limits
        self._resolve = resolve
        self._ends_at = time.monotonic() + limits.timeout_s
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve the name, check everything it gives, and connect to the first that answers.

        Raises:
            NotFetched: it may not be connected to, or cannot be looked up.
        """
        if port not in self._limits.ports:
            known = ", ".join(map(str, sorted(self._limits.ports)))
            raise NotFetched(f"port {port} is not fetched from, only {known} (PATINA_FETCH_PORTS)")
        addresses = self._looked_up(host, port)
        # One that may not be connected to spoils the rest: a name of both kinds is no accident. A name that has none
        # is told in the same words, so that nobody learns which names there are inside.
        if not addresses or not all(may_connect(address, self._limits.allowed) for address in addresses):
            raise NotFetched(
                "its host name leads to no public address; those of other networks are fetched from when the server's"
                " PATINA_FETCH_ALLOWED_NETWORKS names them"
            )
        *others, last = addresses[:MAX_ADDRESSES_TRIED]
        for address in others:
            try:
                return self._connected(address, port, socket_options)
            except httpcore.ConnectError:
                continue
        return self._connected(last, port, socket_options)

    def _connected(self, address: str, port: int, options: Iterable[Any] | None) -> httpcore.NetworkStream:
        # An address in figures is not looked up again.
        stream = self._sockets.connect_tcp(address, port, _left(self._ends_at), socket_options=options)
        return _TimedStream(stream, self._ends_at)

    def _looked_up(self, host: str, port: int) -> Sequence[str]:
        """Resolvers know no time limit, so one that takes too long is left behind."""
        answers: queue.SimpleQueue[Sequence[str] | NotFetched] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(host, port))
            except socket.gaierror as error:
                later = error.errno == socket.EAI_AGAIN
                answers.put(NotFetched("its host name cannot be looked up now", passing=True) if later else ())
            except (OSError, UnicodeError):  # a name no resolver would take
                answers.put(())

        threading.Thread(target=ask, name="look-up", daemon=True).start()
        try:
            answer = answers.get(timeout=_left(self._ends_at))
        except queue.Empty:
            raise httpcore.ConnectTimeout("looking up the name") from None
        if isinstance(answer, NotFetched):
            raise answer
        return answer


class _TimedStream(httpcore.NetworkStream):
    """A connection that ends when the time is over, however slowly but steadily bytes trickle in."""

    def __init__(self, stream: httpcore.NetworkStream, ends_at: float) -> None:
        self._stream = stream
        self._ends_at = ends_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As of any stream."""
        return self._stream.read(max_bytes, _left(self._ends_at))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As of any stream."""
        self._stream.write(buffer, _left(self._ends_at))

    def close(self) -> None:
        """As of any stream."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """As of any stream; the certificate is checked for the name, whatever address was connected to."""
        inner = self._stream.start_tls(ssl_context, server_hostname, _left(self._ends_at))
        return _TimedStream(inner, self._ends_at)

    def get_extra_info(self, info: str) -> Any:
        """As of any stream."""
        return self._stream.get_extra_info(info)


def _left(ends_at: float) -> float:
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout("the time is over")
    return left_s
