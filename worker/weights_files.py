"""Registered weights as checked files on this machine. Knows nothing about engines or jobs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import structlog

from catalog.blobs import BlobStore
from catalog.generations.service import ChosenWeights
from catalog.registry import service as registry
from contracts.failures import FailureCode, PatinaError
from worker.publish import read_header
from worker.station import Station

FETCHED = "weights"
"""Folder of the cache for files out of a store that is not on this machine."""

log = structlog.get_logger(__name__)


class WeightsFiles:
    """Weights by their hash: each file is fetched, and its hash compared, once while the worker lives."""

    def __init__(self, blobs: BlobStore, cache_dir: Path) -> None:
        self._blobs = blobs
        self._folder = cache_dir / FETCHED
        self._checked: dict[str, Path] = {}

    def path(self, weights: ChosenWeights) -> Path:
        """The file of registered weights. What a store raises that does not answer is passed on.

        Raises:
            PatinaError: WEIGHTS_UNREADABLE: it is gone, or is not the file that was registered.
        """
        known = self._checked.get(weights.sha256)
        if known is not None and known.is_file():
            return known
        path = self._blobs.local_path(weights.blob_key)
        try:
            if path is None:
                path = self._folder / f"{weights.sha256}.safetensors"
                found = _hash(path) if path.is_file() else None
                if found != weights.sha256:
                    # A copy that is damaged, or was of a blob that was, is not what is there by now.
                    path.unlink(missing_ok=True)
                    found = self._blobs.fetch_to(weights.blob_key, path)
            else:
                found = _hash(path)
        except FileNotFoundError:
            raise self._refusal(weights, "is not in the store any more") from None
        if found != weights.sha256:
            raise self._refusal(weights, "is not the file that was registered")
        self._checked[weights.sha256] = path
        return path

    def _refusal(self, weights: ChosenWeights, what: str) -> PatinaError:
        return PatinaError(
            FailureCode.WEIGHTS_UNREADABLE,
            f"The file of '{weights.name}@{weights.version}' {what}.",
            "Restore it from a backup of the blob store, or train it again.",
        )


def clear_removed(station: Station) -> bool:
    """Remove fetched files of weights that are registered no more; False as well."""
    there = {path.stem: path for path in (station.settings.cache_dir / FETCHED).glob("*.safetensors")}
    with station.database.reading() as session:
        registered = registry.registered_among(session, list(there))
    for sha256 in there.keys() - registered:
        # Should they come back meanwhile, the file is fetched again.
        there[sha256].unlink(missing_ok=True)
        log.info("weights.cleared", sha256=sha256)
    return False


def is_full(path: Path) -> bool:
    """Whether the file has a whole fine-tuned UNet; files from elsewhere are adapters."""
    try:
        return read_header(path).method == "full"
    except PatinaError:
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
