"""The generate worker, `celery -A worker.generate worker -P threads -c 1`: the one process that joins both planes.

A task only rings. One thread claims up to a batch of generations in one UPDATE, hands them to the engine and stores
the pictures; torch work asked for over HTTP (describing a base) is done by the same thread.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog

from catalog import jobs
from catalog.bases import service as bases
from catalog.generations import service as generations
from catalog.generations.service import Work
from catalog.jobs import Claim, Kind, Queue
from contracts.failures import FAILURES, FailureCode, PatinaError
from inference.engine import AdapterUse, EngineRequest
from sdxl.base import describe
from worker.doorbell import Duty, Shift, doorbell, new_reference
from worker.engine_room import EngineRoom
from worker.lease import Lease
from worker.pictures import seed_of, store_pictures
from worker.settings import WorkerSettings
from worker.station import Station, open_station
from worker.sweep import sweep
from worker.weights_files import WeightsFiles, clear_removed, is_full

log = structlog.get_logger(__name__)


class _NoDevice(Exception):
    """Runs hold every device; the claims of this transaction are undone and nothing was counted."""


class GenerateWork:
    """The duties of a generate worker, from its start to its end."""

    def __init__(self) -> None:
        self._station: Station | None = None
        self._room: EngineRoom | None = None

    def open(self, shift: Shift) -> list[Duty]:
        """Open the station; one thread owns the engine, one keeps its device, one sweeps."""
        settings = WorkerSettings()
        station = self._station = open_station("generate", settings.devices, settings)
        room = self._room = EngineRoom(station)
        bench = Bench(station, room, WeightsFiles(station.blobs, settings.cache_dir), shift)
        return [
            Duty("engine", bench.work, settings.sweep_s),
            Duty("device", room.renew, min(settings.heartbeat_every_s, settings.sweep_s), rings=False),
            Duty("clear", lambda: clear_removed(station), settings.collect_s, rings=False),
            Duty("sweep", lambda: sweep(station), settings.sweep_s, rings=False),
        ]

    def close(self) -> None:
        """Leave in good order."""
        if self._room is not None:
            self._room.leave()
        if self._station is not None:
            self._station.close()


class Bench:
    """What the engine's thread does."""

    def __init__(self, station: Station, room: EngineRoom, files: WeightsFiles, shift: Shift) -> None:
        self._station = station
        self._room = room
        self._files = files
        self._shift = shift

    def work(self) -> bool:
        """Claim a batch and do it; False when there was none, or no device for it."""
        if self._room.lost.is_set():
            self._room.leave()
        claims = self._claim()
        if not claims:
            self._room.rest()
            return False
        with ExitStack() as stack:
            leases = [stack.enter_context(Lease(self._station, claim)) for claim in claims]
            for lease in leases:
                if lease.claim.kind == Kind.BASE_ADD:
                    self._add_base(lease.claim)
            begun = [
                (lease, work)
                for lease in leases
                if lease.claim.kind == Kind.GENERATE and (work := self._begin(lease.claim)) is not None
            ]
            for base in dict.fromkeys((work.base_source, work.base_identity) for _, work in begun):
                self._generate([b for b in begun if (b[1].base_source, b[1].base_identity) == base])
        return True

    def _claim(self) -> list[Claim]:
        station, settings = self._station, self._station.settings
        with self._room.lock:
            try:
                with station.database.session() as session:
                    claims = jobs.claim(session, Queue.GENERATE, station.worker_id, settings.lease_s, settings.batch)
                    needs_device = any(claim.kind == Kind.GENERATE for claim in claims)
                    if needs_device and not self._room.take_device(session):
                        raise _NoDevice
            except _NoDevice:
                self._room.forget_device()
                return []
        return claims

    def _begin(self, claim: Claim) -> Work | None:
        try:
            with self._station.database.session() as session:
                return generations.begin(session, claim)
        except jobs.LeaseLost:
            return None
        except PatinaError as error:
            self._fail(claim, error)
            return None

    def _generate(self, begun: Sequence[tuple[Lease, Work]]) -> None:
        """One base's share of the batch; a request that breaks the engine breaks no other."""
        started = time.monotonic()
        ready: list[tuple[Lease, Work, EngineRequest]] = []
        for lease, work in begun:
            try:
                ready.append((lease, work, self._request(work)))
            except PatinaError as error:
                self._fail(work.claim, error)
            except Exception:  # noqa: BLE001 - each kind of store has errors of its own; told with a reference
                self._fail_unknown(work.claim)
        if not ready:
            return
        try:
            engine = self._room.engine_for(ready[0][1].base_source, ready[0][1].base_identity)
            results = engine.generate(
                [request for _, _, request in ready], cancelled=lambda index: self._unwanted(ready[index][0])
            )
        except PatinaError as error:
            for _, work, _ in ready:
                self._fail(work.claim, error)
            return
        except Exception as error:  # noqa: BLE001 - anything a library raises; the requests fail with a reference, the worker lives
            if len(ready) > 1 and not _poisoned(error):
                for lease, work, _ in ready:
                    self._generate([(lease, work)])
                return
            for _, work, _ in ready:
                self._fail_unknown(work.claim)
            if _poisoned(error):
                # After such an error every call fails; a fresh process is the only cure, and the supervisor has one.
                os.kill(os.getpid(), signal.SIGTERM)
            return
        self._room.used()
        for (lease, work, _), result in zip(ready, results, strict=True):
            self._settle(lease, work, result, time.monotonic() - started)

    def _request(self, work: Work) -> EngineRequest:
        paths = [(weights, self._files.path(weights)) for weights in work.weights]
        full = [path for _, path in paths if is_full(path)]
        if len(full) > 1:
            raise PatinaError(
                FailureCode.INVALID_INPUT,
                "Two whole fine-tunes cannot be used at once.",
                "Name one, and any number of LoRAs with it.",
            )
        request = work.request
        assert request.width is not None
        assert request.height is not None
        return EngineRequest(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seeds=tuple(seed_of(work, position) for position in range(request.images)),
            width=request.width,
            height=request.height,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            adapters=tuple(AdapterUse(w.sha256, path, w.scale) for w, path in paths if path not in full),
            full_weights=full[0] if full else None,
        )

    def _settle(self, lease: Lease, work: Work, result: object, seconds: float) -> None:
        claim = work.claim
        try:
            if isinstance(result, PatinaError) or lease.cancelled.is_set():
                self._not_made(lease, claim, result)
                return
            assert isinstance(result, list)
            images = store_pictures(self._station.blobs, work, result)
            with self._station.database.session() as session:
                generations.complete(session, claim, images, seconds)
            log.info("generation.done", generation=claim.subject_id, images=len(images), seconds=round(seconds, 2))
        except jobs.LeaseLost:
            log.warning("generation.lease_lost", generation=claim.subject_id, fence=claim.fence)
        except Exception:  # noqa: BLE001 - the store or the database is away; told to the user with a reference
            self._fail_unknown(claim)

    def _not_made(self, lease: Lease, claim: Claim, result: object) -> None:
        if isinstance(result, PatinaError) and result.code is not FailureCode.CANCELLED:
            self._fail(claim, result)
            return
        with self._station.database.session() as session:
            if lease.cancelled.is_set():
                generations.cancelled(session, claim)
            else:
                generations.give_back(session, claim)

    def _unwanted(self, lease: Lease) -> bool:
        return (
            lease.cancelled.is_set() or lease.lost.is_set() or self._room.lost.is_set() or self._shift.draining.is_set()
        )

    def _add_base(self, claim: Claim) -> None:
        station = self._station
        try:
            with station.database.reading() as session:
                source = bases.read_by_id(session, claim.owner, claim.subject_id).source
            description = describe(Path(source).expanduser(), cache_dir=station.settings.cache_dir / "identities")
            with station.database.session() as session:
                bases.complete_add(session, claim, description)
        except jobs.LeaseLost:
            log.warning("base.lease_lost", base=claim.subject_id)
        except PatinaError as error:
            self._fail_base(claim, error.code, f"{error.message} {error.hint}")
        except Exception:  # a reader's bug on a strange file; told with a reference
            reference = new_reference()
            log.exception("base.failed", base=claim.subject_id, reference=reference)
            words = FAILURES[FailureCode.INTERNAL]
            self._fail_base(claim, FailureCode.INTERNAL, f"{words.message} Reference {reference}.")

    def _fail_base(self, claim: Claim, code: FailureCode, message: str) -> None:
        try:
            with self._station.database.session() as session:
                bases.fail_add(session, claim, code, message)
        except jobs.LeaseLost:
            log.warning("base.lease_lost", base=claim.subject_id)

    def _fail(self, claim: Claim, error: PatinaError, reference: str | None = None) -> None:
        log.info("generation.failed", generation=claim.subject_id, code=error.code, reference=reference)
        try:
            with self._station.database.session() as session:
                generations.fail(session, claim, error.code, error.message, error.hint, reference)
        except jobs.LeaseLost:
            log.warning("generation.lease_lost", generation=claim.subject_id, fence=claim.fence)

    def _fail_unknown(self, claim: Claim) -> None:
        """Called while the exception is handled, so that the log has it."""
        reference = new_reference()
        log.exception("generation.error", generation=claim.subject_id, reference=reference)
        self._fail(claim, PatinaError(FailureCode.INTERNAL), reference)


def _poisoned(error: Exception) -> bool:
    return "CUDA error" in str(error) or type(error).__name__ == "AcceleratorError"


_work = GenerateWork()
app = doorbell(Queue.GENERATE, _work.open, _work.close)
