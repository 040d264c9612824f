"""Tables of the machines that do the work. Knows nothing about what the work is."""

from __future__ import annotations

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from catalog.db import Base, Row, db_now


class Worker(Base):
    """One worker process, alive while its heartbeat is young."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    host: Mapped[str]
    boot_id: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[float] = mapped_column(default=db_now())
    heartbeat_at: Mapped[float] = mapped_column(default=db_now())


class DeviceSlot(Base):
    """One device of a host. Held by the job it names while that job is leased, or by the engine it names.

    Nothing has to free a job's slot: it is free as soon as the job is no longer leased with that fence.
    """

    __tablename__ = "device_slots"
    __table_args__ = (UniqueConstraint("host", "index"),)

    id: Mapped[int] = mapped_column(Row, primary_key=True)
    host: Mapped[str]
    index: Mapped[int]
    device: Mapped[str]
    memory_bytes: Mapped[int | None] = mapped_column(Row)
    job_id: Mapped[int | None] = mapped_column(Row)
    job_fence: Mapped[int | None]
    engine_id: Mapped[str | None]
    engine_lease_until: Mapped[float | None]
    unload_requested_at: Mapped[float | None]
