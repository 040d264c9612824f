"""Which host names, addresses and origins count as this machine's own: pure functions over header text.

Knows nothing about ASGI, keys or routes.
"""

from __future__ import annotations

import re

from contracts.loopback import is_loopback_name

DEFAULT_PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?", re.IGNORECASE)


def is_loopback_host_header(value: str) -> bool:
    """Whether a Host header names loopback, with any port; what is not NAME or NAME:PORT does not."""
    match = HOST.fullmatch(value)
    return match is not None and is_loopback_name(match["name"])


def is_same_origin(origin: str, scheme: str, host_header: str) -> bool:
    """Whether an Origin header is the very scheme, host and port the request was sent to; ``null`` never is."""
    theirs_scheme, separator, theirs_host = origin.lower().partition("://")
    theirs, ours = HOST.fullmatch(theirs_host), HOST.fullmatch(host_header.lower())
    if not separator or theirs is None or ours is None or theirs_scheme not in DEFAULT_PORTS:
        return False
    port = DEFAULT_PORTS[theirs_scheme]
    return theirs_scheme == scheme and (theirs["name"], int(theirs["port"] or port)) == (
        ours["name"],
        int(ours["port"] or port),
    )
