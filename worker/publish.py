"""From a finished run directory to registered weights: checked, stored under the fence's prefix, entered once.

Knows nothing about training, and loads no torch: a header is read as the bytes it is.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from catalog import jobs
from catalog.blobs import make_key
from catalog.registry import service as registry
from catalog.registry.service import HELD_OUT_METRIC, Publication
from catalog.runs import progress
from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Completed, Manifest, ManifestFile, RunDir
from worker.station import Station

MAX_HEADER_BYTES = 64 * 1024**2


def publish(station: Station, claim: jobs.Claim, run_dir: RunDir, outcome: Completed) -> None:
    """Store and register the weights the manifest names, and end the run, all with the claim's fence.

    Doing it again, in this attempt or another, registers nothing twice.

    Raises:
        LeaseLost: another attempt has the run.
        PatinaError: a file is not what the manifest says, or belongs to another base.
    """
    with station.database.session() as session:
        progress.publishing(session, claim)
    manifest = Manifest.model_validate_json(run_dir.manifest.read_bytes())
    listed = [file for file in manifest.files if file.path.startswith(f"{run_dir.weights.name}/")]
    if not listed:
        raise _unreadable("The run ended without a weights file.")
    publications: list[Publication] = []
    try:
        for file in listed:
            publications.append(_store(station, claim, run_dir, file, outcome))
    except Exception:
        # The next attempt stores them under a prefix of its own; where there is no room, these would take it.
        for publication in publications:
            station.blobs.delete(publication.blob_key)
        raise
    with station.database.session() as session:
        for publication in publications:
            registry.publish(session, claim, publication)
        progress.complete(session, claim, outcome)


def read_header(path: Path) -> AdapterHeader:
    """Our header of a weights file.

    Raises:
        PatinaError: it has none, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            words = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else {}
    except (OSError, ValueError, struct.error):
        raise _unreadable(f"{path.name} is not a safetensors file.") from None
    header = AdapterHeader.from_metadata(words.get("__metadata__"))
    if header is None:
        raise _unreadable(f"{path.name} does not say what it was trained from.")
    return header


def _store(station: Station, claim: jobs.Claim, run_dir: RunDir, file: ManifestFile, outcome: Completed) -> Publication:
    path = run_dir.root / file.path
    header = read_header(path)
    key = make_key("runs", claim.subject_id, str(claim.fence), "weights", path.name)
    if station.blobs.put_file(key, path) != file.sha256:
        raise _unreadable(f"{path.name} is not the file the trainer wrote.")
    return Publication(header, key, file.sha256, file.bytes, _metrics(outcome))


def _metrics(outcome: Completed) -> dict[str, float]:
    found = {
        "loss_first": outcome.loss_first,
        "loss_last": outcome.loss_last,
        "train_seconds": outcome.train_seconds,
        "held_out_loss_before": outcome.held_out_loss_before,
        HELD_OUT_METRIC: outcome.held_out_loss_after,
    }
    return {name: value for name, value in found.items() if value is not None}


def _unreadable(message: str) -> PatinaError:
    return PatinaError(
        FailureCode.WEIGHTS_UNREADABLE, message, "Read the run's log, and start the run again when the cause is gone."
    )
