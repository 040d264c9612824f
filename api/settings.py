"""Where the API finds things and what it allows: PATINA_* variables, each with an embedded default.

Knows nothing about what is trained (contracts/train.py). docs/api.md describes every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.uploads import UploadLimits
from catalog.uploads.limits import DatasetLimits
from contracts.loopback import is_loopback_name

MIB = 1 << 20


class ApiSettings(BaseSettings):
    """What one API process reads from its environment."""

    model_config = SettingsConfigDict(
        env_prefix="PATINA_", env_ignore_empty=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    home: Path = Path(".patina")
    """Folder that holds everything this installation keeps."""

    database_url: str | None = None
    """SQLAlchemy URL; none is SQLite in the home."""

    storage_url: str | None = None
    """fsspec URL of the blob store; none is a folder in the home."""

    broker_url: str = "embedded"
    """Celery broker URL, or "embedded"."""

    host: str = "127.0.0.1"
    """Address the server is bound to; on loopback no key is needed, anywhere else every request needs one."""

    recipes: Path = Path(__file__).resolve().parents[1] / "configs" / "train"
    """Folder whose YAML files are the recipes."""

    tokenizer: Path = Path(__file__).resolve().parents[1] / "bases" / "emoji-xl" / "tokenizer"
    """Folder with CLIP's vocabulary, by which the ledger counts tokens."""

    max_json_bytes: Annotated[int, Field(ge=1024)] = 1 * MIB
    """Largest JSON body."""

    max_upload_bytes: Annotated[int, Field(ge=1)] = 4096 * MIB
    """Largest upload request, all its files together."""

    max_file_bytes: Annotated[int, Field(ge=1)] = 2048 * MIB
    """Largest single file of an upload; a zip is one file."""

    max_upload_files: Annotated[int, Field(ge=1)] = 10_000
    """Most files in one upload request."""

    max_urls: Annotated[int, Field(ge=1)] = 1000
    """Most addresses in one request to fetch pictures from."""

    max_dataset_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * MIB
    """Most bytes one dataset may be sent, what is still arriving counted in full."""

    max_dataset_images: Annotated[int, Field(ge=1)] = 100_000
    """Most images one dataset may hold; the worker counts those inside archives."""

    upload_expires_s: Annotated[float, Field(ge=60)] = 7 * 24 * 3600.0
    """Seconds after its last byte until an unfinished upload is forgotten."""

    disk_reserve_bytes: Annotated[int, Field(ge=0)] = 1024 * MIB
    """Room kept free on the disk of the home and the blob store; uploads that would take it are refused."""

    max_wait_s: Annotated[float, Field(ge=0, le=600)] = 120.0
    """Longest ``Prefer: wait=N`` that is honoured."""

    poll_s: Annotated[float, Field(gt=0, le=10)] = 0.3
    """Seconds between looks into the database while a client waits or watches."""

    stream_ping_s: Annotated[float, Field(gt=0, le=300)] = 15.0
    """Seconds between heartbeats of an event stream in which nothing happens."""

    @property
    def loopback_only(self) -> bool:
        """Whether the server is bound to this machine alone."""
        return is_loopback_name(self.host)

    @property
    def folder(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().absolute()

    @property
    def uploads(self) -> Path:
        """Where files lie while they arrive."""
        return self.folder / "tmp"

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.folder / 'patina.db'}"

    @property
    def storage(self) -> str:
        """The blob store's URL."""
        return self.storage_url or f"file://{self.folder / 'blobs'}"

    @property
    def upload_limits(self) -> UploadLimits:
        """What one upload request may bring."""
        return UploadLimits(self.max_upload_bytes, self.max_file_bytes, self.max_upload_files)

    @property
    def dataset_limits(self) -> DatasetLimits:
        """What one dataset may hold."""
        return DatasetLimits(self.max_dataset_bytes, self.max_dataset_images)
