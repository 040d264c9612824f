"""Where things are and how the processes of one machine run: PATINA_* variables, each with an embedded default.

Knows nothing about what is trained (contracts/train.py). The other processes read their own share of the same
variables; `environment_of` is how the supervisor hands them on. docs/settings.md describes every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.settings import PREFIX, unusable


class Settings(BaseSettings):
    """What `patina` reads from its environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    home: Path = Path(".patina")
    """Folder that holds everything this installation keeps: database, blobs, bases, logs."""

    database_url: str | None = None
    """SQLAlchemy URL; none is SQLite in the home."""

    broker_url: str = "embedded"
    """Celery broker URL; `embedded` starts a Valkey child on a unix socket."""

    storage_url: str | None = None
    """fsspec URL of the blob store (`s3://bucket/prefix`); none is a folder in the home."""

    api_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Server the command talks to; none is the one running on this home, else HOST and PORT."""

    api_key: SecretStr | None = None
    """Key the command sends; none works on the server's own machine."""

    host: str = "127.0.0.1"
    """Address the API binds to; anything but loopback needs a key to exist."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8470
    """Port the API binds to; 0 takes any free one."""

    slots: Annotated[int, Field(ge=1, le=64)] | None = None
    """Devices of this machine that runs and engines share; none counts the GPUs, and is 1 without any."""

    cache: Path | None = None
    """Folder for what can be made again (latents, identities); none is a folder in the home."""

    lease_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds after its last heartbeat that a worker's job is given to another."""

    heartbeat_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds between heartbeats; none is a third of the lease, and more than that is refused."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.heartbeat_s is not None and self.heartbeat_s > self.lease_s / 3:
            raise ValueError(
                f"PATINA_HEARTBEAT_S ({self.heartbeat_s:g}) must be at most a third of PATINA_LEASE_S"
                f" ({self.lease_s:g}), or one late heartbeat loses the job"
            )
        return self

    @property
    def folder(self) -> Path:
        """The home as an absolute path, the same however it was written."""
        return self.home.expanduser().resolve()


def read_settings(**given: Any) -> Settings:
    """Settings from the environment, with what was given on the command line (not None) on top.

    Raises:
        InvalidInput: with every variable that cannot be used.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise unusable(error) from None


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as variables for the processes of this machine: absolute, so that no child's folder matters."""
    values = {
        "home": str(settings.folder),
        "database_url": settings.database_url,
        "broker_url": settings.broker_url,
        "storage_url": settings.storage_url,
        "host": settings.host,
        "port": str(settings.port),
        "slots": str(settings.slots) if settings.slots else None,
        "cache": str(settings.cache.expanduser().resolve()) if settings.cache else None,
        "lease_s": f"{settings.lease_s:g}",
        "heartbeat_s": f"{settings.heartbeat_s:g}" if settings.heartbeat_s else None,
    }
    return {PREFIX + name.upper(): value for name, value in values.items() if value is not None}
