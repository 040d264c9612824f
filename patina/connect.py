"""Which server the command talks to: the one asked for, else the one on this home, else the default address."""

from __future__ import annotations

from patina.client import Client
from patina.home import address, holder
from patina.settings import Settings, read_settings


def connect() -> Client:
    """A client for the settings of this process."""
    settings = read_settings()
    return Client(server_url(settings), settings.api_key.get_secret_value() if settings.api_key else None)


def server_url(settings: Settings) -> str:
    """Where the server is."""
    if settings.api_url:
        return settings.api_url
    running = holder(settings.folder)
    return running.url if running else address(settings.host, settings.port)
