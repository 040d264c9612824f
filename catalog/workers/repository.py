"""SQL over workers and device slots. Knows nothing about who asks or why."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, func, not_, select, update
from sqlalchemy.orm import Session

from catalog.db import SHARED_OWNER, db_now
from catalog.jobs import Job, JobState
from catalog.workers.models import DeviceSlot, Worker

# Also when its lease has run out: until the sweep takes the job away, a late heartbeat may bring its holder back.
held_by_job = exists().where(
    Job.id == DeviceSlot.job_id, Job.fence == DeviceSlot.job_fence, Job.state == JobState.LEASED
)
held_by_engine = and_(DeviceSlot.engine_id.is_not(None), func.coalesce(DeviceSlot.engine_lease_until, 0) > db_now())
free = and_(not_(held_by_job), not_(held_by_engine))


def worker(session: Session, worker_id: str) -> Worker | None:
    """One worker."""
    return session.scalar(select(Worker).where(Worker.owner == SHARED_OWNER, Worker.id == worker_id))


def touch_worker(session: Session, worker_id: str) -> bool:
    """Note that it is alive; False when it is not registered."""
    statement = update(Worker).where(Worker.owner == SHARED_OWNER, Worker.id == worker_id)
    return session.execute(statement.values(heartbeat_at=db_now()).returning(Worker.id)).first() is not None


def remove_worker(session: Session, worker_id: str) -> None:
    """Forget a worker."""
    session.execute(delete(Worker).where(Worker.owner == SHARED_OWNER, Worker.id == worker_id))


def alive_workers(session: Session, within_s: float) -> Sequence[Worker]:
    """Workers heard of within so many seconds."""
    query = select(Worker).where(Worker.owner == SHARED_OWNER, Worker.heartbeat_at > db_now() - within_s)
    return session.scalars(query.order_by(Worker.host, Worker.role, Worker.id)).all()


def of_kernel(session: Session, host: str, boot_id: str) -> Sequence[Worker]:
    """Workers of one host since it booted."""
    query = select(Worker).where(Worker.owner == SHARED_OWNER, Worker.host == host, Worker.boot_id == boot_id)
    return session.scalars(query).all()


def slots(session: Session, host: str | None = None) -> Sequence[DeviceSlot]:
    """Slots of one host or of all."""
    query = select(DeviceSlot).where(DeviceSlot.owner == SHARED_OWNER).order_by(DeviceSlot.host, DeviceSlot.index)
    return session.scalars(query if host is None else query.where(DeviceSlot.host == host)).all()


def slots_with_state(session: Session) -> Sequence[tuple[DeviceSlot, bool, bool]]:
    """Every slot with whether a job and whether an engine holds it."""
    query = select(DeviceSlot, held_by_job, held_by_engine).where(DeviceSlot.owner == SHARED_OWNER)
    return [(slot, job, engine) for slot, job, engine in session.execute(query.order_by(DeviceSlot.id))]


def take_slot(session: Session, host: str, values: dict[str, object]) -> int | None:
    """Write ``values`` into a free slot of the host and return its index; None when all are held."""
    # Locked before looking: a job that has just been given a slot must be seen as leased by the statement below.
    session.execute(select(DeviceSlot.id).where(*_of_host(host)).order_by(DeviceSlot.id).with_for_update())
    best = select(DeviceSlot.id).where(*_of_host(host), free).order_by(DeviceSlot.index).limit(1).cte("best")
    statement = update(DeviceSlot).where(DeviceSlot.id.in_(select(best.c.id)))
    return session.scalar(statement.values(**values).returning(DeviceSlot.index), execution_options=_AS_IS)


def update_engine_slot(session: Session, host: str, engine_id: str, values: dict[str, object]) -> DeviceSlot | None:
    """Write into the slot this engine holds; None when it holds none."""
    mine = (*_of_host(host), DeviceSlot.engine_id == engine_id, not_(held_by_job))
    row_id = session.scalar(
        update(DeviceSlot).where(*mine).values(**values).returning(DeviceSlot.id), execution_options=_AS_IS
    )
    return None if row_id is None else session.get(DeviceSlot, row_id, populate_existing=True)


def request_unload(session: Session, host: str) -> None:
    """Ask the engines of the host to give their devices back when they are idle."""
    asked = (*_of_host(host), held_by_engine, DeviceSlot.unload_requested_at.is_(None))
    session.execute(update(DeviceSlot).where(*asked).values(unload_requested_at=db_now()), execution_options=_AS_IS)


def _of_host(host: str) -> tuple[ColumnElement[bool], ...]:
    return DeviceSlot.owner == SHARED_OWNER, DeviceSlot.host == host


_AS_IS = {"synchronize_session": False}
