"""Where a worker finds things and how patient it is. Knows nothing about what a run does."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.sizes import parse_bytes
from worker.archives import MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_RATIO, MAX_TOTAL_BYTES, Limits
from worker.decode import MAX_FILE_BYTES
from worker.fetch_network import WEB_PORTS, FetchLimits


def _as_bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


class WorkerSettings(BaseSettings):
    """Read from PATINA_*; every one has an embedded default."""

    model_config = SettingsConfigDict(
        env_prefix="PATINA_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    home: Path = Path(".patina")
    """Where everything embedded lives; run directories are under it."""

    database_url: str | None = None
    """SQLAlchemy URL; null is SQLite under the home."""

    storage_url: str | None = None
    """fsspec URL of the blobs; null is a folder under the home."""

    cache: Path | None = None
    """Where latents, embeddings and fetched weights are kept between runs; null is a folder under the home."""

    slots: int | None = Field(default=None, ge=1, le=64)
    """Devices of this host that runs and engines may lease; null counts the GPUs, and is 1 without any."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs and engines compute on."""

    device_memory: Annotated[int | None, BeforeValidator(_as_bytes)] = Field(default=None, ge=1)
    """Memory a run must fit on its device, such as 8GB; null is what the GPU has, and no limit on a processor."""

    threads: int | None = Field(default=None, ge=1)
    """Processor threads of a trainer; null is OMP_NUM_THREADS, or every processor."""

    lease_s: float = Field(default=60.0, gt=0)
    """How long a claimed job is safe without a heartbeat."""

    heartbeat_s: float | None = Field(default=None, gt=0)
    """Seconds between heartbeats; null is a third of the lease."""

    sweep_s: float = Field(default=5.0, gt=0)
    """Seconds between looks for work nobody rang for."""

    collect_s: float = Field(default=3600.0, gt=0)
    """Seconds between looks for blobs nothing refers to, and for directories of removed runs."""

    blob_grace_s: float = Field(default=24 * 3600.0, ge=60)
    """Seconds a blob nothing refers to is kept: longer than reading the largest upload takes."""

    stop_grace_s: float = Field(default=90.0, gt=0)
    """How long a trainer may take to save a checkpoint when it is asked to stop; longer where it says it needs that."""

    term_grace_s: float = Field(default=20.0, gt=0)
    """How long it may take to end after TERM, before it is killed; an orphan longer where it says it needs that."""

    idle_unload_s: float = Field(default=15.0, ge=0)
    """How long the engine stays loaded without work while a run waits for its device."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the engine computes in, the VAE aside; auto is bf16 on a GPU and fp32 on a CPU. Runs have their own."""

    adapter_cache_bytes: int = Field(default=2 * 1024**3, ge=0)
    """How much memory of its device an engine's adapters may take."""

    batch: int = Field(default=8, ge=1)
    """How many generations one claim takes at most, and how many pictures are made at once."""

    max_store_px: int = Field(default=4_000_000, ge=65_536)
    """Pixels an uploaded picture is stored with at most; larger ones are downscaled, which the ledger says."""

    max_dataset_images: int = Field(default=100_000, ge=1)
    """Most images one dataset may hold, wherever they come from."""

    max_dataset_bytes: int = Field(default=64 * 1024**3, ge=1)
    """Most bytes one dataset may be sent; what is fetched counts when it comes."""

    fetch_allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Networks that pictures are fetched from although they are not public, separated by commas."""

    fetch_ports: Annotated[frozenset[int], NoDecode] = WEB_PORTS
    """Ports that pictures are fetched from, separated by commas."""

    fetch_bytes: int = Field(default=MAX_FILE_BYTES, ge=1, le=MAX_FILE_BYTES)
    """Largest picture that is fetched."""

    fetch_timeout_s: float = Field(default=30.0, gt=0, le=600)
    """Seconds fetching one picture may take, redirects and all."""

    fetch_connections: int = Field(default=4, ge=1, le=32)
    """Pictures fetched at once; each may take ``fetch_bytes`` of memory."""

    disk_reserve_bytes: int = Field(default=1024**3, ge=0)
    """Room kept free on the disk of the blob store; what would take it is read when there is more."""

    archive_entries: int = Field(default=MAX_ENTRIES, ge=1)
    """Most files in one archive."""

    archive_entry_bytes: int = Field(default=MAX_ENTRY_BYTES, ge=1)
    """Largest file of an archive or row of a Parquet file, unpacked."""

    archive_total_bytes: int = Field(default=MAX_TOTAL_BYTES, ge=1)
    """Most bytes one archive or Parquet file may unpack to."""

    archive_ratio: int = Field(default=MAX_RATIO, ge=1)
    """How many times larger what is unpacked may be than what it was packed in."""

    @field_validator("fetch_allowed_networks", "fetch_ports", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _beats_in_time(self) -> Self:
        if self.heartbeat_s is not None and self.heartbeat_s > self.lease_s / 3:
            raise ValueError(f"PATINA_HEARTBEAT_S must be at most a third of PATINA_LEASE_S ({self.lease_s / 3:g})")
        return self

    @property
    def archive_limits(self) -> Limits:
        """What one archive may hold."""
        return Limits(self.archive_entries, self.archive_entry_bytes, self.archive_total_bytes, self.archive_ratio)

    @property
    def fetch_limits(self) -> FetchLimits:
        """Where pictures are fetched from, and how much."""
        return FetchLimits(self.fetch_allowed_networks, self.fetch_ports, self.fetch_bytes, self.fetch_timeout_s)

    @property
    def home_dir(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().resolve()

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.home_dir / 'patina.db'}"

    @property
    def storage(self) -> str:
        """The blob store's URL."""
        return self.storage_url or f"file://{self.home_dir / 'blobs'}"

    @property
    def cache_dir(self) -> Path:
        """The cache as an absolute path."""
        return (self.cache or self.home_dir / "cache").expanduser().resolve()

    @property
    def runs_dir(self) -> Path:
        """The run directories' folder."""
        return self.home_dir / "runs"

    @property
    def heartbeat_every_s(self) -> float:
        """Seconds between heartbeats: at a third of the lease, two may fail before it is lost."""
        return self.heartbeat_s or self.lease_s / 3

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of this host as torch names them, one for each slot."""
        gpus = () if self.device == "cpu" else nvidia_devices()
        if gpus:
            return gpus[: self.slots or len(gpus)]
        return ("cpu",) * (self.slots or 1)

    @property
    def trainer_threads(self) -> int:
        """Threads a trainer computes with; part of what makes a run exactly repeatable."""
        said = os.environ.get("OMP_NUM_THREADS", "")
        return self.threads or (int(said) if said.isdigit() and int(said) else len(os.sched_getaffinity(0)))


def nvidia_devices(dev: Path = Path("/dev")) -> tuple[str, ...]:
    """The host's NVIDIA devices as torch counts them, found without loading CUDA.

    A process that starts trainers must not hold a device itself, and so cannot ask CUDA.
    """
    return tuple(f"cuda:{index}" for index in range(len(visible_gpus(dev))))


def visible_gpus(dev: Path = Path("/dev")) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES would have to say for each of them: an index or a UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    return tuple(sorted((path.name.removeprefix("nvidia") for path in dev.glob("nvidia[0-9]*")), key=int))
