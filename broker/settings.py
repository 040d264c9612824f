"""Where the broker is. Knows nothing about Celery or about how the embedded server is started."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

SOCKET_PATH_LIMIT_BYTES = 100
"""A unix socket's path may have 107 bytes; the server writes a temporary name beside it."""

PLAIN_PATH = re.compile(r"^[A-Za-z0-9/_.-]+$")
"""Paths a broker URL can carry as they are."""


class BrokerSettings(BaseSettings):
    """Read from PATINA_HOME and PATINA_BROKER_URL."""

    model_config = SettingsConfigDict(
        env_prefix="PATINA_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    home: Path = Path(".patina")
    """Where everything embedded lives."""

    broker_url: str = "embedded"
    """A Redis, Valkey or RabbitMQ URL, or "embedded": a Valkey child on a unix socket."""

    @property
    def embedded(self) -> bool:
        """Whether the broker is our own child."""
        return self.broker_url == "embedded"

    @property
    def url(self) -> str:
        """The URL clients connect to."""
        return f"redis+socket://{self.socket}" if self.embedded else self.broker_url

    @property
    def data(self) -> Path:
        """Where the embedded server keeps its append-only file."""
        return self.home.resolve() / "broker"

    @property
    def socket(self) -> Path:
        """The embedded server's socket: under the home, or under a short runtime folder when that is too long."""
        wanted = self.home.resolve() / "run" / "broker.sock"
        if len(os.fsencode(wanted)) <= SOCKET_PATH_LIMIT_BYTES and PLAIN_PATH.match(str(wanted)):
            return wanted
        name = hashlib.sha256(os.fsencode(self.home.resolve())).hexdigest()[:16]
        return _runtime_dir() / f"patina-{os.getuid()}-{name}" / "broker.sock"


def _runtime_dir() -> Path:
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        # Forty bytes are for our own folder and file name.
        if candidate and len(os.fsencode(candidate)) <= SOCKET_PATH_LIMIT_BYTES - 50 and PLAIN_PATH.match(candidate):
            return Path(candidate)
    return Path("/tmp")
