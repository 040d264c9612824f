"""Stored files to the wire: streamed in pieces, with ETag and single byte ranges; knows no nouns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

PIECE_BYTES = 1 << 20
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The whole content."},
    206: {"content": {"application/octet-stream": {}}, "description": "The part asked for with `Range`."},
    304: {"description": "The content is the one named in `If-None-Match`."},
    416: {"description": "The range asked for lies outside."},
}
RANGE = re.compile(r"bytes=(?P<first>\d*)-(?P<last>\d*)")


def blob_response(
    request: Request,
    opened: Callable[[], IO[bytes]],
    *,
    size_bytes: int,
    sha256: str,
    media_type: str,
    filename: str,
    attachment: bool = True,
    immutable: bool = True,
) -> Response:
    """Answer a GET for stored content: 200, 206, 304 or 416.

    Args:
        opened: opens the content for reading; called only when its bytes are wanted.
        attachment: whether a browser saves it instead of showing it.
        immutable: whether this address will always answer this content, so that it need not be asked again.
    """
    headers = {
        "etag": f'"{sha256}"',
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable" if immutable else "private, no-cache",
        "content-disposition": f"{'attachment' if attachment else 'inline'}; {_named(filename)}",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if headers["etag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    span = _span(request, size_bytes, headers["etag"])
    if span is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{size_bytes}"})
    first, last = span
    partial = (first, last) != (0, size_bytes - 1) and size_bytes > 0
    if partial:
        headers["content-range"] = f"bytes {first}-{last}/{size_bytes}"
    headers["content-length"] = str(last - first + 1)
    return StreamingResponse(
        _pieces(opened, first, last - first + 1),
        status_code=206 if partial else 200,
        media_type=media_type,
        headers=headers,
    )


def _named(filename: str) -> str:
    """Both forms of RFC 6266: clients such as curl read the plain one alone."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in filename)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(filename)}"


def _span(request: Request, size_bytes: int, etag: str) -> tuple[int, int] | None:
    """First and last byte to send; None when the range asked for lies outside."""
    whole = (0, size_bytes - 1)
    match = RANGE.fullmatch(request.headers.get("range", ""))
    if match is None or request.headers.get("if-range", etag) != etag:
        return whole  # several ranges, other units and changed content are answered whole, as RFC 9110 allows
    if match["first"]:
        first = int(match["first"])
        last = min(int(match["last"]), size_bytes - 1) if match["last"] else size_bytes - 1
        return (first, last) if first <= last else None
    if not match["last"]:
        return whole
    tail = min(int(match["last"]), size_bytes)
    return (size_bytes - tail, size_bytes - 1) if tail else None


def _pieces(opened: Callable[[], IO[bytes]], first: int, length: int) -> Iterator[bytes]:
    with opened() as source:
        source.seek(first)
        while length > 0:
            piece = source.read(min(PIECE_BYTES, length))
            if not piece:
                return
            length -= len(piece)
            yield piece
