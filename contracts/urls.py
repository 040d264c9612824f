"""Addresses pictures are fetched from, as text: what one must look like before anybody connects to it.

Knows nothing about which machine an address leads to (worker/fetch_addresses.py).
"""

from __future__ import annotations

import unicodedata
from urllib.parse import urlsplit

MAX_URL_CHARACTERS = 2000
SCHEMES = ("http", "https")


def is_url(name: str) -> bool:
    """Whether the name of a ledger row is an address; names of files never hold two slashes in a row."""
    return "://" in name


def why_not_fetched(url: str) -> str | None:
    """Why nothing is ever fetched from this address, whatever is there; None when it looks as it should."""
    if len(url) > MAX_URL_CHARACTERS:
        return f"longer than {MAX_URL_CHARACTERS} characters"
    if any(unicodedata.category(c)[0] in "CZ" for c in url):
        return "holds spaces or characters that cannot be seen; write them as %20 and so on"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "not a complete address"
    if parts.scheme not in SCHEMES:
        return "not an address that begins with https:// or http://"
    if not host or port == 0:
        return "not a complete address"
    if parts.username is not None or parts.password is not None:
        return "names a user or password; nothing is fetched with credentials"
    return None
