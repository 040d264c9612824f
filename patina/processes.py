"""Which processes one machine runs: the broker, the API and a Celery worker for each queue, with their commands.

Knows nothing about when they are started or stopped (supervise.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from broker import embedded
from broker.settings import BrokerSettings
from patina.child import command
from patina.children import Child, launcher
from patina.home import MARKER, home_id
from patina.settings import Settings, environment_of

LIGHT_THREADS = 2


def environment(settings: Settings) -> dict[str, str]:
    """What every child finds in its environment: ours, the settings, and the mark it is found by."""
    return {
        **os.environ,
        **environment_of(settings),
        MARKER: home_id(settings.folder),
        "PYTHONUNBUFFERED": "1",
    }


def broker(settings: Settings) -> list[Child]:
    """The embedded broker, or nothing when another one is used. It starts with this process's own environment."""
    where = BrokerSettings(home=settings.folder, broker_url=settings.broker_url)
    if not where.embedded:
        return []
    return [Child("broker", lambda: embedded.start(where).process, where.data / "broker.log")]


def api(settings: Settings, variables: Mapping[str, str]) -> Child:
    """The HTTP server."""
    arguments = ("--host", settings.host, "--port", str(settings.port), "--no-server-header")
    return _child("api", settings, variables, "uvicorn", "--factory", "api.app:from_environment", *arguments)


def workers(settings: Settings, variables: Mapping[str, str]) -> list[Child]:
    """One Celery worker for each queue; threads, because the heavy work is in processes of its own."""
    threads = {"light": LIGHT_THREADS, "train": settings.slots or max(1, _gpus()), "generate": 1}
    node = home_id(settings.folder)[:8]
    return [
        _child(
            queue,
            settings,
            variables,
            *("celery", "-A", f"worker.{queue}", "worker", "-P", "threads", "-c", str(count), "-Q", queue),
            *("-n", f"{queue}-{node}@%h", "--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        )
        for queue, count in threads.items()
    ]


def _child(name: str, settings: Settings, variables: Mapping[str, str], module: str, *arguments: str) -> Child:
    log = settings.folder / "logs" / f"{name}.log"
    return Child(name, launcher(command(module, *arguments), variables, log), log)


def _gpus() -> int:
    """Devices a run could take; which of them it gets is decided in the database."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
