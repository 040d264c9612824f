"""Ringing the doorbell: a message by task name, sent after commit.

A ring that does not get through costs a sweep, never the caller: it is logged and forgotten.
"""

from __future__ import annotations

from functools import lru_cache

import structlog
from celery import Celery

from broker.app import RING_EXPIRES_S, celery_app, ring_task
from broker.settings import BrokerSettings

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0

log = structlog.get_logger(__name__)


def ring(queue: str, settings: BrokerSettings | None = None) -> bool:
    """Tell the workers of ``queue`` to look for work; False when the broker did not take the message."""
    try:
        _bell((settings or BrokerSettings()).url).send_task(
            ring_task(queue), queue=queue, expires=RING_EXPIRES_S, retry=False, ignore_result=True
        )
    except Exception as error:  # noqa: BLE001 - whatever the transport raises, the work is already in the database
        log.warning("ring.failed", queue=queue, error=type(error).__name__)
        return False
    return True


@lru_cache(maxsize=8)
def _bell(url: str) -> Celery:
    app = celery_app("patina.ring", BrokerSettings(broker_url=url))
    app.conf.broker_transport_options = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "max_retries": 0,
        "connect_retries_timeout": CONNECT_TIMEOUT_S,
    }
    return app
