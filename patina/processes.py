"""Which processes one machine runs: the broker, the API and a Celery worker for each queue, with their commands.

Knows nothing about when they are started or stopped (supervise.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from broker import embedded
from broker.app import QUEUES
from broker.settings import BrokerSettings
from contracts.settings import waiting_threads
from patina.child import command
from patina.children import Child, launcher
from patina.home import MARKER, home_id
from patina.settings import Settings, environment_of


def environment(settings: Settings) -> dict[str, str]:
    """What every child finds in its environment: ours, the settings, and the mark it is found by."""
    return {
        **waiting_threads(os.environ),
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
    """A Celery worker for each queue: one thread hears the bell; how much is done at once is the worker's affair."""
    node = home_id(settings.folder)[:8]
    return [
        _child(
            queue,
            settings,
            variables,
            *("celery", "-A", f"worker.{queue}", "worker", "-P", "threads", "-c", "1", "-Q", queue),
            *("-n", f"{queue}-{node}@%h", "--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        )
        for queue in QUEUES
    ]


def _child(name: str, settings: Settings, variables: Mapping[str, str], module: str, *arguments: str) -> Child:
    log = settings.folder / "logs" / f"{name}.log"
    return Child(name, launcher(command(module, *arguments), variables, log), log)
