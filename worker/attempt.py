"""One attempt at a run: lay out the run directory, launch, follow, stop when asked, say how it ended.

Holds the job's lease while it works; everything it writes carries the job's fence. Knows nothing about Celery, and
nothing about where published weights go (publish.py).
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
import yaml

from catalog import jobs
from catalog.bases import service as bases
from catalog.blobs import make_key
from catalog.datasets import parquet
from catalog.datasets import service as datasets
from catalog.generations.service import ChosenWeights
from catalog.registry import service as registry
from catalog.runs import progress
from catalog.runs import service as runs
from catalog.runs.models import Run
from catalog.runs.progress import StoredFile
from catalog.workers import service as workers
from contracts.events import Event, Preview
from contracts.failures import FailureCode, PatinaError
from contracts.rundir import OUTCOME, Completed, Manifest, Outcome, RunDir
from worker import launcher
from worker.follow import EventTail
from worker.lease import Lease
from worker.station import Station
from worker.weights_files import WeightsFiles

POLL_S = 0.5
LOG_EVERY_S = 15.0
MAX_LOG_BYTES = 4 * 1024**2
"""The end of a longer trainer.log is kept; the whole of it stays in the run directory."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: what the trainer said last, and whether it was asked to stop."""

    run_dir: RunDir
    outcome: Outcome | None
    cancelled: bool
    draining: bool


def run_attempt(station: Station, lease: Lease, draining: threading.Event) -> Ending:
    """Train the run of a claimed job until it ends or is stopped.

    Raises:
        LeaseLost: another attempt has the job; the trainer has been killed.
        PatinaError: the run cannot be started (no base, no images).
    """
    claim = lease.claim
    run_dir = RunDir(station.settings.runs_dir / claim.subject_id)
    with station.database.session() as session:
        device = workers.device_of(session, station.host, claim.slot) if claim.slot is not None else "cpu"
        last = runs.read(session, claim.owner, claim.subject_id).attempt
        run = progress.begin(session, claim, device, keeps_directory=_was_here(run_dir, last))
    _write(run_dir.attempt, str(run.attempt))
    following = _Following(station, claim, run_dir, EventTail(run_dir.events, run.events_offset))
    outcome: Outcome | None = completed_before(run_dir, run)
    if outcome is None and not (draining.is_set() or lease.cancelled.is_set()):
        launch = _lay_out(station, claim, run, run_dir, device)
        _train(station, launcher.start(launch), lease, draining, following)
        outcome = read_outcome(run_dir)
    following.finish()
    return Ending(run_dir, outcome, lease.cancelled.is_set(), draining.is_set())


def completed_before(run_dir: RunDir, run: Run) -> Completed | None:
    """The outcome of an earlier attempt that was done but for publishing, or None."""
    outcome = read_outcome(run_dir)
    if not isinstance(outcome, Completed) or not run_dir.manifest.exists():
        return None
    manifest = Manifest.model_validate_json(run_dir.manifest.read_bytes())
    return outcome if manifest.config_digest == run.config_digest else None


def read_outcome(run_dir: RunDir) -> Outcome | None:
    """What the trainer said last; None when it ended without a word."""
    try:
        return OUTCOME.validate_json(run_dir.outcome.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _was_here(run_dir: RunDir, attempt: int) -> bool:
    """Whether the run's last attempt was in this directory, so that the offset it left is one of this events.jsonl.

    If not, what was said here is told from its beginning: of two lines about one step the later counts.
    """
    try:
        return int(run_dir.attempt.read_text(encoding="utf-8")) == attempt and run_dir.events.exists()
    except (FileNotFoundError, ValueError):
        return False


def _write(path: Path, words: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(words, encoding="utf-8")
    temporary.replace(path)


def _lay_out(station: Station, claim: jobs.Claim, run: Run, run_dir: RunDir, device: str) -> launcher.Launch:
    """Make the run directory ready; what an earlier attempt left in it (checkpoints) stays."""
    with station.database.reading() as session:
        base = bases.read_by_id(session, claim.owner, run.base_id)
        fed = runs.fed_by(session, claim.owner, run.id)
    base_dir = Path(base.source).expanduser().resolve()
    if not base_dir.exists():
        raise PatinaError(
            FailureCode.BASE_UNREADABLE,
            f"The files of the base '{base.name}' are not on this machine.",
            "Put them back where they were, or add the base again with `patina bases add`.",
        )
    folders = [run_dir.dataset] if len(fed) == 1 else [run_dir.dataset / str(n + 1) for n in range(len(fed))]
    for folder, (version_id, _) in zip(folders, fed, strict=True):
        _write_version(station, claim, version_id, folder / "data.parquet")
    _write(run_dir.config, yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
    # The last attempt's ending must not be taken for this one's.
    run_dir.outcome.unlink(missing_ok=True)
    return launcher.Launch(
        run_dir=run_dir,
        base_dir=base_dir,
        base_identity=run.base_identity,
        datasets=tuple((folder, weight) for folder, (_, weight) in zip(folders, fed, strict=True)),
        cache_dir=station.settings.cache_dir,
        home=station.settings.home_dir,
        attempt=f"{claim.job_id}.{claim.fence}",
        devices=(device,),
        threads=station.settings.trainer_threads,
        init_weights=_init_weights(station, claim, run),
        memory_bytes=station.settings.device_memory,
    )


def _init_weights(station: Station, claim: jobs.Claim, run: Run) -> Path | None:
    """The file of the weights a run starts from, if it does.

    Raises:
        PatinaError: NOT_FOUND: they were removed since; WEIGHTS_UNREADABLE.
    """
    reference = runs.config_of(run).init_from
    if reference is None:
        return None
    with station.database.reading() as session:
        weights = registry.resolve(session, claim.owner, reference)
        wanted = ChosenWeights(weights.id, weights.name, weights.version, 1.0, weights.sha256, weights.blob_key)
    return WeightsFiles(station.blobs, station.settings.cache_dir).path(wanted)


def _write_version(station: Station, claim: jobs.Claim, version_id: str, table: Path) -> None:
    if table.exists():
        return
    with station.database.reading() as session:
        contents = datasets.version_contents(session, claim.owner, version_id)
    try:
        parquet.write(contents, station.blobs, table)
    except FileNotFoundError:
        raise PatinaError(
            FailureCode.DATASET_UNREADABLE, "An image of the dataset is not in the store any more."
        ) from None


def _train(
    station: Station, trainer: launcher.Trainer, lease: Lease, draining: threading.Event, following: _Following
) -> None:
    """Follow the trainer to its end; ask it to stop when the owner or the worker's shutdown wants it."""
    settings = station.settings
    stop_by: float | None = None
    try:
        while trainer.running():
            if lease.lost.is_set():
                raise jobs.LeaseLost(f"job {lease.claim.job_id}")
            if stop_by is None and (lease.cancelled.is_set() or draining.is_set()):
                log.info("trainer.asked_to_stop", attempt=trainer.launch.attempt, cancelled=lease.cancelled.is_set())
                trainer.ask("stop")
                stop_by = time.monotonic() + launcher.grace_s(trainer.launch.run_dir, settings.stop_grace_s)
            if stop_by is not None and time.monotonic() > stop_by:
                break
            try:
                following.catch_up()
                following.pass_on(trainer)
            except jobs.LeaseLost:
                raise
            except Exception as error:  # noqa: BLE001 - each kind of store has errors of its own
                # The trainer goes on while the database or the store is away; the lease says for how long.
                log.warning("following.failed", attempt=trainer.launch.attempt, error=type(error).__name__)
            trainer.wait(POLL_S)
    except BaseException:
        # Whatever went wrong here, a trainer nobody follows must not go on.
        launcher.kill(trainer)
        raise
    launcher.end(trainer, settings.term_grace_s)


class _Following:
    """What the run directory says, copied to the database and the store as it appears."""

    def __init__(self, station: Station, claim: jobs.Claim, run_dir: RunDir, tail: EventTail) -> None:
        self._station = station
        self._claim = claim
        self._run_dir = run_dir
        self._tail = tail
        self._logged_bytes = -1
        self._log_at = 0.0

    def catch_up(self) -> None:
        """Copy new events and previews, and now and then the log.

        Raises:
            LeaseLost: another attempt has the job.
        """
        before = self._tail.offset
        while events := self._tail.read():
            try:
                self._record(events)
            except BaseException:
                self._tail.offset = before
                raise
            before = self._tail.offset
        if time.monotonic() - self._log_at > LOG_EVERY_S:
            self._store_log()

    def pass_on(self, trainer: launcher.Trainer) -> None:
        """Ask the trainer for what the run's owner wants of it.

        Raises:
            LeaseLost: another attempt has the job.
        """
        with self._station.database.reading() as session:
            wanted = progress.asked(session, self._claim.subject_id)
        for name in wanted:
            trainer.ask(name)
        if wanted:
            with self._station.database.session() as session:
                progress.passed_on(session, self._claim, wanted)

    def finish(self) -> None:
        """Copy what is left."""
        self.catch_up()
        self._store_log()

    def _record(self, events: list[Event]) -> None:
        shown = [said for said in events if isinstance(said, Preview)]
        stored = [(said, file) for said in shown if (file := self._store_preview(said)) is not None]
        with self._station.database.session() as session:
            progress.record_events(session, self._claim, events, self._tail.offset)
            for said, file in stored:
                progress.record_preview(session, self._claim, said, file)

    def _store_preview(self, said: Preview) -> StoredFile | None:
        path = self._run_dir.previews / Path(said.file).name
        try:
            key = make_key(*self._prefix(), "previews", path.name)
            return StoredFile(key, self._station.blobs.put_file(key, path), path.stat().st_size)
        except (FileNotFoundError, ValueError) as error:
            log.warning("preview.not_stored", file=said.file, error=type(error).__name__)
            return None

    def _store_log(self) -> None:
        self._log_at = time.monotonic()
        path = self._run_dir.log
        size = path.stat().st_size if path.exists() else 0
        if size in (0, self._logged_bytes):
            return
        with path.open("rb") as file:
            file.seek(max(0, size - MAX_LOG_BYTES))
            words = file.read(MAX_LOG_BYTES)
        key = make_key(*self._prefix(), "trainer.log")
        self._station.blobs.put_bytes(key, words)
        with self._station.database.session() as session:
            before = progress.record_log(session, self._claim, key)
        self._logged_bytes = size
        if before is not None and before != key:
            self._station.blobs.delete(before)  # an earlier attempt's: however many there are, one log takes room

    def _prefix(self) -> tuple[str, ...]:
        # An attempt that was given up can only write under its own, dead prefix.
        return ("runs", self._claim.subject_id, str(self._claim.fence))
