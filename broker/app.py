"""The Celery application of every process, with settings that make no promise rest on the broker.

A message is a doorbell (acknowledged when it arrives, no result, no order): what to do is in the database.
Knows nothing about what the work is.
"""

from __future__ import annotations

from celery import Celery

from broker.settings import BrokerSettings

QUEUES = ("light", "train", "generate")
"""One Celery queue for each kind of worker."""

RING_EXPIRES_S = 600
"""A doorbell nobody heard for this long says nothing a worker does not find when it starts."""


def celery_app(name: str, settings: BrokerSettings | None = None) -> Celery:
    """A Celery application under ``name`` on the configured broker; it connects when first used."""
    app = Celery(name, broker=(settings or BrokerSettings()).url, set_as_current=False)
    app.conf.update(
        # Early ack: an unacknowledged message would be delivered again while its hour-long job still runs.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        task_ignore_result=True,
        task_track_started=False,
        task_serializer="json",
        accept_content=["json"],
        worker_send_task_events=True,
        broker_transport_options={"visibility_timeout": 43_200, "socket_timeout": 30, "health_check_interval": 25},
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        task_publish_retry=True,
    )
    return app


def ring_task(queue: str) -> str:
    """The name of the task that rings ``queue``; senders know the name, workers the function."""
    return f"patina.ring.{queue}"
