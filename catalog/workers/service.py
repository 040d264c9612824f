"""Who is at work, and who holds which device. Knows nothing about what runs on it.

Workers and slots belong to the instance (owner ``shared``). Runs and the generation engine lease from the same
table: a run takes its slot in the transaction that claims its job, the engine by a lease of its own, which it gives
back when a run waits and nothing was generated for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog.db import SHARED_OWNER, add_unique, db_now, ring
from catalog.jobs import Claim, Queue, claim
from catalog.workers import repository
from catalog.workers.models import DeviceSlot, Worker


@dataclass(frozen=True)
class Device:
    """A device a host offers: its name for torch ("cpu", "cuda:0") and its memory when known."""

    name: str
    memory_bytes: int | None = None


@dataclass(frozen=True)
class EngineSlot:
    """The device an engine holds; ``unload_requested``: a run waits for it."""

    index: int
    device: str
    unload_requested: bool


@dataclass(frozen=True)
class SlotState:
    """One device and who holds it now: "job", "engine" or None."""

    host: str
    index: int
    device: str
    memory_bytes: int | None
    held_by: str | None


@dataclass(frozen=True)
class HostSlots:
    """The devices of one host, for ``jobs.claim``."""

    host: str

    def take(self, session: Session, owner: str, job_id: int, fence: int) -> int | None:
        """Give a free device to this job; None when all are held."""
        values: dict[str, object] = {"job_id": job_id, "job_fence": fence, **_NO_ENGINE}
        return repository.take_slot(session, self.host, values)

    def ask(self, session: Session) -> None:
        """Ask the engines of this host to unload when they are idle."""
        repository.request_unload(session, self.host)


def register_host(session: Session, host: str, devices: Sequence[Device]) -> None:
    """Make the host's slots be exactly these devices; what is held stays held."""
    known = {slot.index: slot for slot in repository.slots(session, host)}
    for index, device in enumerate(devices):
        slot = known.pop(index, None)
        if slot is None:
            # Workers of one host start together; whoever comes second finds the slot made.
            made = DeviceSlot(owner=SHARED_OWNER, host=host, index=index, device=device.name)
            slot = made if add_unique(session, made) else repository.slots(session, host)[index]
        slot.device, slot.memory_bytes = device.name, device.memory_bytes
    for surplus in known.values():
        session.delete(surplus)
    session.flush()


def register_worker(session: Session, worker_id: str, role: str, host: str, boot_id: str, pid: int) -> None:
    """Note a worker process that has started; ``role`` is light, train or generate."""
    repository.remove_worker(session, worker_id)
    session.add(Worker(id=worker_id, owner=SHARED_OWNER, role=role, host=host, boot_id=boot_id, pid=pid))
    session.flush()


def heartbeat_worker(session: Session, worker_id: str) -> bool:
    """Note that it is alive; False when it is not registered (any more)."""
    return repository.touch_worker(session, worker_id)


def forget_worker(session: Session, worker_id: str) -> None:
    """Note that a worker has stopped in good order."""
    repository.remove_worker(session, worker_id)


def forget_dead_workers(session: Session, host: str, boot_id: str, alive: Callable[[int], bool]) -> list[str]:
    """Forget this host's workers whose process is gone, and free what their engines hold; returns their ids.

    Only for a caller that sees the host's processes: ``boot_id`` must name the very process table it looks into.
    """
    gone = [worker.id for worker in repository.of_kernel(session, host, boot_id) if not alive(worker.pid)]
    for worker_id in gone:
        release_engine_slot(session, host, worker_id)
        repository.remove_worker(session, worker_id)
    return gone


def alive_workers(session: Session, within_s: float = 60.0) -> Sequence[Worker]:
    """Workers heard of lately."""
    return repository.alive_workers(session, within_s)


def list_slots(session: Session) -> list[SlotState]:
    """Every device of the instance and who holds it."""
    return [
        SlotState(slot.host, slot.index, slot.device, slot.memory_bytes, _holder(by_job, by_engine))
        for slot, by_job, by_engine in repository.slots_with_state(session)
    ]


def claim_with_device(session: Session, queue: str, worker_id: str, host: str, lease_s: float) -> Claim | None:
    """Claim a job together with a free device of this host (``claim.slot`` is its index).

    When a job waits but no device is free, engines on the host are asked to unload; commit all the same.
    """
    found = claim(session, queue, worker_id, lease_s, host_slots=HostSlots(host))
    return found[0] if found else None


def device_of(session: Session, host: str, index: int) -> str:
    """Name of a device by its slot's index."""
    return next(slot.device for slot in repository.slots(session, host) if slot.index == index)


def lease_engine_slot(session: Session, host: str, engine_id: str, lease_s: float) -> EngineSlot | None:
    """Take a device for the engine, or prolong the one it has; None when runs hold them all.

    Call it as the engine's heartbeat too: None then means that the lease was lost and the device must be left.
    """
    prolonged: dict[str, object] = {"engine_lease_until": db_now() + lease_s}
    slot = repository.update_engine_slot(session, host, engine_id, prolonged)
    if slot is None:
        taken = {**prolonged, "engine_id": engine_id, "unload_requested_at": None, "job_id": None, "job_fence": None}
        if repository.take_slot(session, host, taken) is None:
            return None
        slot = repository.update_engine_slot(session, host, engine_id, prolonged)
    return None if slot is None else EngineSlot(slot.index, slot.device, slot.unload_requested_at is not None)


def release_engine_slot(session: Session, host: str, engine_id: str) -> None:
    """The engine has unloaded; a waiting run is told."""
    repository.update_engine_slot(session, host, engine_id, dict(_NO_ENGINE))
    ring(session, Queue.TRAIN)


_NO_ENGINE: dict[str, object] = {"engine_id": None, "engine_lease_until": None, "unload_requested_at": None}


def _holder(by_job: bool, by_engine: bool) -> str | None:
    return "job" if by_job else "engine" if by_engine else None
