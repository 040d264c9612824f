"""/healthz: the process answers. /readyz: what it needs answers too, each part by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import structlog
from fastapi import APIRouter, Response
from sqlalchemy import text

from api.deps import Here, Parts
from api.schemas.health import Health, Readiness
from broker.app import celery_app

router = APIRouter(tags=["health"])
log = structlog.get_logger(__name__)

BROKER_TIMEOUT_S = 1.0


@router.get("/healthz", summary="Whether the process answers", response_model=Health)
async def healthz() -> Health:
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Whether database, broker and storage answer",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "At least one part does not answer."}},
)
def readyz(here: Here, response: Response) -> Readiness:
    checks = {"database": _database, "broker": _broker, "storage": _storage}
    found = {name: _answers(name, check, here) for name, check in checks.items()}
    ready = all(found.values())
    response.status_code = 200 if ready else 503
    return Readiness(
        status="ready" if ready else "not ready",
        checks={name: "ok" if fine else "unavailable" for name, fine in found.items()},
    )


def _answers(name: str, check: Callable[[Parts], None], here: Parts) -> bool:
    try:
        check(here)
    except Exception:  # noqa: BLE001 - whatever a part raises, it is not ready; the log says why
        log.warning("part_not_ready", part=name, exc_info=True)
        return False
    return True


def _database(here: Parts) -> None:
    with here.database.reading() as session:
        session.execute(text("SELECT version_num FROM alembic_version")).one()


def _broker(here: Parts) -> None:
    app = celery_app("patina.api", here.broker)
    app.conf.broker_transport_options = {
        "socket_connect_timeout": BROKER_TIMEOUT_S,
        "socket_timeout": BROKER_TIMEOUT_S,
        "max_retries": 0,
    }
    with app.connection_for_write(connect_timeout=BROKER_TIMEOUT_S) as connection:
        connection.ensure_connection(max_retries=0, timeout=BROKER_TIMEOUT_S)


def _storage(here: Parts) -> None:
    key = f"health/{secrets.token_hex(8)}"
    here.blobs.put_bytes(key, b"")
    here.blobs.delete(key)
