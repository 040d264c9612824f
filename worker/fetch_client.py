"""One file from an address somebody else chose, fetched without being led astray by it, its name or its server.

Connections go to checked addresses alone (fetch_network.py); TLS speaks to the name. Redirects are followed by hand
with the same checks. Bytes are counted as they come, after decompression too, and time as it passes, over everything
from the first look-up on. No proxies, cookies or credentials. What comes is bytes and nothing more: whether they are
a picture is for whoever decodes them. Knows nothing about datasets or retries.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import Iterable

import httpcore
import httpx

from contracts.urls import SCHEMES, why_not_fetched
from worker.fetch_network import CheckedNetwork, FetchLimits, NotFetched, Resolve, look_up

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be another one soon."""
HEADERS = [
    (b"User-Agent", b"patina"),
    (b"Accept", b"image/png, image/jpeg, image/webp, image/avif"),
    (b"Accept-Encoding", b"identity"),
]
GZIP_OR_ZLIB = 47
"""Window bits by which zlib finds out itself which of the two it is."""
BROKE_OFF = "the connection broke off before all of it had come"


def trust() -> ssl.SSLContext:
    """Whose certificates are believed: the public authorities; making it takes a while, so make it once."""
    return httpx.create_ssl_context()


def fetch(url: str, limits: FetchLimits, trusted: ssl.SSLContext, resolve: Resolve = look_up) -> bytes:
    """What lies at ``url``.

    Raises:
        NotFetched: nothing that may be used came, in the time and size there is.
    """
    network = CheckedNetwork(limits, resolve)
    here = _parsed(url)
    for _ in range(MAX_REDIRECTS + 1):
        # A pool for one request: nothing of it is there for the next one, to whatever name that goes.
        with httpcore.ConnectionPool(ssl_context=trusted, max_connections=1, network_backend=network) as pool:
            try:
                with pool.stream("GET", _target(here), headers=HEADERS) as answer:
                    if answer.status not in REDIRECTS:
                        return _content(answer, limits.max_bytes)
                    here = _next(here, answer)
            except httpcore.TimeoutException:
                raise _too_slow(limits.timeout_s) from None
            except httpcore.ConnectError as error:
                raise _not_connected(error) from None
            except httpcore.NetworkError:
                raise NotFetched(BROKE_OFF, passing=True) from None
            except httpcore.ProtocolError:  # what was cut off is not told from what never was HTTP
                raise NotFetched(f"{BROKE_OFF}, or the server does not speak HTTP", passing=True) from None
    raise NotFetched(f"it leads on to another address more than {MAX_REDIRECTS} times")


def _parsed(url: str) -> httpx.URL:
    refusal = why_not_fetched(url)
    if refusal is not None:
        raise NotFetched(refusal)
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise NotFetched("not a complete address") from None
    if parsed.scheme not in SCHEMES or not parsed.raw_host or parsed.userinfo:  # as the one that connects reads it
        raise NotFetched("not a complete address")
    return parsed


def _target(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _next(here: httpx.URL, answer: httpcore.Response) -> httpx.URL:
    where = _header(answer, b"location")
    if not where:
        raise NotFetched(f"the server answered {answer.status} and not where the file is")
    try:
        there = here.join(where)
    except (httpx.InvalidURL, ValueError):
        raise NotFetched("it leads on to something that is no address") from None
    try:
        return _parsed(str(there))
    except NotFetched as error:
        raise NotFetched(f"it leads on to an address that is not fetched from: {error}") from None


def _content(answer: httpcore.Response, max_bytes: int) -> bytes:
    if answer.status != httpx.codes.OK:
        words = httpx.codes.get_reason_phrase(answer.status)
        raise NotFetched(
            f"the server answered {answer.status}{f' ({words})' if words else ''}", passing=answer.status in PASSING
        )
    announced = _header(answer, b"content-length")
    if announced.isascii() and announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    encoding = _header(answer, b"content-encoding").lower()
    if encoding in ("", "identity"):
        return _counted(answer.iter_stream(), max_bytes)
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _inflated(answer.iter_stream(), max_bytes)
    raise NotFetched("the server sent it encoded in a way that was not asked for")


def _counted(chunks: Iterable[bytes], max_bytes: int) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(content)


def _inflated(chunks: Iterable[bytes], max_bytes: int) -> bytes:
    """Never more than one byte over the limit is unpacked, however tightly it was packed."""
    unpack, content, packed_bytes = zlib.decompressobj(GZIP_OR_ZLIB), bytearray(), 0
    for chunk in chunks:
        packed_bytes += len(chunk)
        try:
            content += unpack.decompress(chunk, max_bytes - len(content) + 1)
        except zlib.error:
            raise NotFetched("the server sent it encoded and damaged") from None
        if max(len(content), packed_bytes) > max_bytes:
            raise _too_large(max_bytes)
        if unpack.eof:
            return bytes(content)
    raise NotFetched(BROKE_OFF, passing=True)


def _header(answer: httpcore.Response, wanted: bytes) -> str:
    found = [value for name, value in answer.headers if name.lower() == wanted]
    return found[0].decode("latin-1").strip() if found else ""


def _too_large(max_bytes: int) -> NotFetched:
    return NotFetched(f"it is larger than {max_bytes} bytes (PATINA_FETCH_BYTES)")


def _too_slow(timeout_s: float) -> NotFetched:
    return NotFetched(f"it had not come after {timeout_s:g} s (PATINA_FETCH_TIMEOUT_S)", passing=True)


def _not_connected(error: httpcore.ConnectError) -> NotFetched:
    if any(isinstance(why, ssl.SSLCertVerificationError) for why in error.args):
        return NotFetched("the server's certificate is not valid for its name")
    return NotFetched("the server cannot be connected to", passing=True)
