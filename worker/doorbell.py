"""Between Celery and the work: a message only rings, threads of ours look for work, TERM drains them.

Nothing rests on a message: the threads also look when the worker starts and every few seconds. Knows nothing
about what the work is.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import Celery, bootsteps, signals

from broker.app import celery_app, ring_task
from contracts.failures import PatinaError
from worker import logs

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Duty:
    """Something a worker does again and again in a thread of its own."""

    name: str
    work: Callable[[], bool]
    """Looks for work and does it; True when there was some, so that it is called again at once."""
    every_s: float
    """How long it rests at most when there was none."""
    rings: bool = True
    """Whether a ring ends the rest."""


@dataclass
class Shift:
    """A worker's threads from start to drain."""

    draining: threading.Event = field(default_factory=threading.Event)
    _bells: list[threading.Event] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, duties: list[Duty]) -> None:
        """Start a thread for each duty; every one looks for work at once."""
        for duty in duties:
            bell = threading.Event()
            if duty.rings:
                self._bells.append(bell)
            thread = threading.Thread(target=self._keep, args=(duty, bell), name=duty.name)
            self._threads.append(thread)
            thread.start()

    def ring(self) -> None:
        """There may be work: end every rest."""
        for bell in list(self._bells):
            bell.set()

    def drain(self) -> None:
        """Take no more work; what is being done is brought to a safe end by whoever does it."""
        self.draining.set()
        self.ring()

    def join(self) -> None:
        """Wait for every thread; after ``drain``."""
        for thread in self._threads:
            thread.join()

    def _keep(self, duty: Duty, bell: threading.Event) -> None:
        while True:
            # Cleared before looking: a ring (or a drain) that comes while we look is not lost.
            bell.clear()
            if self.draining.is_set():
                return
            try:
                found = duty.work()
            except Exception:  # one failed look must not end the worker; the next one is soon
                found = False
                log.exception("duty.failed", duty=duty.name, reference=new_reference())
            if not found:
                (bell if duty.rings else self.draining).wait(duty.every_s)


def doorbell(queue: str, open_duties: Callable[[Shift], list[Duty]], close: Callable[[], None]) -> Celery:
    """The Celery application of one kind of worker.

    Args:
        queue: the queue whose rings it hears.
        open_duties: called when the worker starts, and not when its module is imported.
        close: called when every thread has ended.
    """
    app = celery_app(f"worker.{queue}")
    app.conf.task_default_queue = queue
    shift = Shift()

    @app.task(name=ring_task(queue))
    def hear() -> None:
        shift.ring()

    class Threads(bootsteps.StartStopStep):
        """Celery's way to start and stop something of ours with the worker, after its signal handlers are in place."""

        def start(self, worker: Any) -> None:
            _start(shift, open_duties)

        def stop(self, worker: Any) -> None:
            shift.drain()
            shift.join()
            close()

    app.steps["worker"].add(Threads)
    # Celery keeps weak references only, unless told otherwise.
    signals.setup_logging.connect(lambda **_: logs.configure(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: shift.drain(), weak=False)
    return app


def _start(shift: Shift, open_duties: Callable[[Shift], list[Duty]]) -> None:
    try:
        shift.begin(open_duties(shift))
    except PatinaError as error:
        log.error("worker.not_started", code=error.code, message=error.message, hint=error.hint)
        raise SystemExit(1) from None
    except Exception:
        log.exception("worker.not_started", reference=new_reference())
        raise SystemExit(1) from None


def new_reference() -> str:
    """A short id that joins what a user is shown with what the log says."""
    return secrets.token_hex(4)
