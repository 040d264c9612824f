"""The connection to one server: its address, the key, no proxy on the way to this machine; refusals as failures.

Knows nothing about what is asked.
"""

from __future__ import annotations

import httpx

from contracts.failures import FailureCode, InvalidInput, PatinaError
from contracts.loopback import is_loopback_name
from patina.problems import from_problem

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
HIGHEST_PORT = 65535
"""httpx takes a higher one, and the system's refusal of it is no failure that httpx knows."""


def connection(url: str, key: str | None, transport: httpx.BaseTransport | None) -> httpx.Client:
    """An HTTP client for the server at ``url``; the proxies of the environment are for other machines' servers.

    Raises:
        InvalidInput: the address is none, or the key cannot be sent.
    """
    address = _address(url)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        message = "The API key has characters that no key has, such as the end of a line."
        raise InvalidInput(
            [], message, "Correct PATINA_API_KEY: the key alone, as `patina keys create NAME` showed it."
        )
    return httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        transport=transport,
        trust_env=not is_loopback_name(address.host),
    )


def raise_problem(response: httpx.Response) -> None:
    """The refusal as a failure; nothing when it is none.

    Raises:
        PatinaError: the server's own words, or INTERNAL when another program answered.
    """
    if response.is_success:
        return
    if response.request.method == "HEAD" and response.status_code == httpx.codes.NOT_FOUND:  # has no body to read
        raise PatinaError(FailureCode.NOT_FOUND)
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        raise PatinaError(
            FailureCode.INTERNAL,
            f"{response.request.url} answered {response.status_code}, which is not an answer of Patina's.",
            "Check PATINA_API_URL: another program may listen there.",
        )
    raise from_problem(problem)


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > HIGHEST_PORT:
        raise InvalidInput([], f"{url} is not the address of a server.", "Correct PATINA_API_URL: http://HOST:PORT.")
    return address
