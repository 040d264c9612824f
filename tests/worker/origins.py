"""Web servers of our own on loopback, honest and hostile: each address answers with exactly the bytes a test wants."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Answer = bytes | Callable[[socket.socket, threading.Event], None]
"""What is sent for a path: bytes as they are, or whatever a function does with the connection until the end."""


class Origin:
    """A server: what it was asked, and what it answers."""

    def __init__(self, host: str, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.names: list[str | None] = []
        """What TLS was asked for by name."""
        self.over = threading.Event()
        self._context = context
        if context is not None:
            context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._listener = socket.create_server((host, 0))
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._listen, daemon=True).start()

    def gives(self, path: str, *answers: Answer) -> str:
        """Answer this path so, one after the other and the last one from then on; its address by number."""
        self.answers[path] = list(answers)
        return f"http://{self.host}:{self.port}{path}"

    def close(self) -> None:
        self.over.set()
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    part = connection.recv(65536)
                    if not part:
                        return
                    head += part
                self.heads.append(head.decode())
                path = head.split(b" ", 2)[1].decode()
                self.asked.append(path)
                answers = self.answers[path]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if callable(answer):
                    answer(connection, self.over)
                else:
                    connection.sendall(answer)


@contextmanager
def origin(host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Iterator[Origin]:
    """A server until the end of the block."""
    server = Origin(host, context)
    try:
        yield server
    finally:
        server.close()


def ok(body: bytes, *headers: str) -> bytes:
    """A whole answer with a body of its true length."""
    return answer("200 OK", f"content-length: {len(body)}", *headers, body=body)


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """An answer of these headers and no others."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def moved(location: str) -> bytes:
    return answer("302 Found", f"location: {location}", "content-length: 0")


def endless(first: bytes) -> Answer:
    """An answer that goes on as long as anybody reads it."""

    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(first)
        while not over.is_set():
            connection.sendall(b"x" * 65536)

    return send


def dripping(whole: bytes, every_s: float = 0.01) -> Answer:
    """An answer that comes byte by byte and never is complete, but never stands still for long either."""

    def send(connection: socket.socket, over: threading.Event) -> None:
        for place in range(len(whole)):
            connection.sendall(whole[place : place + 1])
            if over.wait(every_s):
                return
        while not over.wait(every_s):
            connection.sendall(b"x")

    return send


def certificate(folder: Path, name: str, run: Callable[[list[str]], object]) -> Path:
    """A certificate and key for this host name, which is its own authority."""
    pem = folder / f"{name}.pem"
    key = folder / f"{name}.key"
    run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", str(key), "-out", str(pem)),
        ]
    )
    return pem
