"""Who asks, and from where: decided before any route sees the request, as pure ASGI layers.

    key sent            its owner, or 401; also on loopback
    no key, loopback    owner ``local``, when host name, peer and origin are this machine's own
    no key, elsewhere   401 (403 for a foreign host name on a loopback server)

Knows nothing about how keys are stored. No CORS header is ever sent, so other sites cannot read an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.loopback import is_loopback_host_header, is_same_origin
from api.tus import BODY_TYPE, SAID_ALWAYS, is_upload_path
from catalog.db import LOCAL_OWNER
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.loopback import is_loopback_name

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
FORWARDING_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""A proxy's marks: whoever it speaks for is not on this machine, so a key is needed."""

FILES_PATH = re.compile(r"/api/v1/datasets/[^/]+/files")
"""Where files are sent in one request (api/routes/datasets.py); things elsewhere may be called files, too."""

ANSWER_HEADERS = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class AccessMiddleware:
    """Puts the asking owner into ``scope["state"]["owner"]`` or refuses.

    Args:
        loopback_only: whether the server is bound to loopback, so that no key is needed there.
        owner_of_key: the owner of an API key, None when there is no such key; called in a thread.
    """

    def __init__(self, app: ASGIApp, loopback_only: bool, owner_of_key: Callable[[str], str | None]) -> None:
        self.app = app
        self.loopback_only = loopback_only
        self.owner_of_key = owner_of_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        owner = await self._owner(scope, headers)
        refuse_nul(scope)
        if scope["method"] not in SAFE_METHODS:
            refuse_foreign_write(scope, headers)
        scope.setdefault("state", {})["owner"] = owner

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(ANSWER_HEADERS)
                if is_upload_path(scope["path"]):
                    MutableHeaders(scope=message).update(SAID_ALWAYS)
            await send(message)

        await self.app(scope, receive, guarded)

    async def _owner(self, scope: Scope, headers: Headers) -> str | None:
        if "authorization" in headers:
            owner = await run_in_threadpool(self.owner_of_key, bearer_key(headers["authorization"]))
            if owner is None:
                raise PatinaError(FailureCode.UNAUTHENTICATED, "The API key is not known.")
            return owner
        if self.loopback_only:
            refuse_foreign_host(scope, headers)
            return LOCAL_OWNER
        if scope["path"] in HEALTH_PATHS:
            return None
        raise PatinaError(FailureCode.UNAUTHENTICATED, "This server answers only requests with an API key.")


def bearer_key(authorization: str) -> str:
    """The key of an Authorization header.

    Raises:
        PatinaError: it is not of the form ``Bearer KEY``.
    """
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise PatinaError(FailureCode.UNAUTHENTICATED, "The Authorization header is not of the form Bearer KEY.")
    return key.strip()


def refuse_nul(scope: Scope) -> None:
    """No name holds it, and Postgres would fail on it where SQLite finds nothing.

    Raises:
        InvalidInput: there is a NUL character in the address.
    """
    found = {"/path": "\0" in scope["path"], "/query": b"%00" in scope.get("query_string", b"")}
    if any(found.values()):
        message = "holds a NUL character"
        raise InvalidInput([FieldError(pointer=where, message=message) for where, there in found.items() if there])


def refuse_foreign_host(scope: Scope, headers: Headers) -> None:
    """Without a key only this machine may ask, and under its own name: that is what stops DNS rebinding.

    Raises:
        PatinaError: host name, peer or a proxy's mark is foreign.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback_host_header(hosts[0]):
        raise PatinaError(
            FailureCode.FORBIDDEN_ORIGIN,
            "Without an API key the server answers only to localhost.",
            "Use http://localhost:PORT or http://127.0.0.1:PORT, or send Authorization: Bearer KEY.",
        )
    peer = scope.get("client")
    if (peer and not is_loopback_name(peer[0])) or any(name in headers for name in FORWARDING_HEADERS):
        raise PatinaError(FailureCode.UNAUTHENTICATED, "Requests from other machines need an API key.")


def refuse_foreign_write(scope: Scope, headers: Headers) -> None:
    """A browser tells which page a write comes from, and a form of another site cannot send JSON.

    Raises:
        PatinaError: the page is another site's, or the body is of a type that forms can send.
    """
    origin = headers.get("origin")
    if origin is not None and not is_same_origin(origin, scope["scheme"], headers.get("host", "")):
        raise PatinaError(FailureCode.FORBIDDEN_ORIGIN, "The Origin header names another site.")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise PatinaError(FailureCode.FORBIDDEN_ORIGIN, "The browser says that another site sent this.")
    if not _has_body(headers):
        return
    wanted = body_type(scope["path"])
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise PatinaError(
            FailureCode.UNSUPPORTED_MEDIA_TYPE,
            f"The body is {given or 'of no named type'}; here it must be {wanted}.",
            f"Send Content-Type: {wanted}.",
        )


def body_type(path: str) -> str:
    """The one type a write to this address may have."""
    if is_upload_path(path):
        return BODY_TYPE
    return "multipart/form-data" if FILES_PATH.fullmatch(path) else "application/json"


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class BodyLimitMiddleware:
    """Refuses JSON bodies over a limit before they are read into memory; files have their own limits."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self.limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or body_type(scope["path"]) != "application/json":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self.limit_bytes:
            raise self._too_large()
        read_bytes = 0

        async def counted() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > self.limit_bytes:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> PatinaError:
        return PatinaError(
            FailureCode.TOO_LARGE,
            f"The body is over {self.limit_bytes} bytes.",
            "Send less at once, or raise PATINA_MAX_JSON_BYTES on the server.",
        )
