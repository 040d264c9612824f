"""Puts the HTTP process together: settings, parts, layers, routes. `uvicorn --factory api.app:from_environment`.

Knows nothing about what the routes do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute

from api import errors, logs, openapi
from api.access import AccessMiddleware, BodyLimitMiddleware
from api.deps import Parts
from api.errors import problems
from api.routes import (
    bases,
    captions,
    datasets,
    generations,
    health,
    images,
    ingest,
    ledger,
    recipes,
    runs,
    storage,
    uploads,
    urls,
    versions,
    weights,
)
from api.settings import ApiSettings
from api.uploads import remove_leftovers
from broker.ring import ring
from broker.settings import BrokerSettings
from catalog.blobs import BlobStore
from catalog.db import Database
from catalog.keys import service as keys
from contracts.failures import FailureCode, PatinaError
from contracts.mistakes import field_errors

VERSION = "0.1.0"
NOTE_USE_EVERY_S = 60.0
"""A key's last use is no reason for every read to take the database's writing lock."""

EVERYWHERE = problems(
    FailureCode.INVALID_INPUT,
    FailureCode.UNAUTHENTICATED,
    FailureCode.FORBIDDEN_ORIGIN,
    FailureCode.DATABASE_BUSY,
    FailureCode.INTERNAL,
)


def create_app(settings: ApiSettings) -> FastAPI:
    """The application, with its database brought to the newest schema.

    Raises:
        PatinaError: the home cannot be used, or the server is open to the network and no API key exists.
    """
    broker = BrokerSettings(home=settings.folder, broker_url=settings.broker_url)
    database = Database(settings.database, on_commit=partial(_ring, broker))
    parts = Parts(settings, database, BlobStore(settings.storage), broker)
    _prepare(parts)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    # The page at /docs then comes whole from this server, which may have no way to the internet.
    app = FastAPIOffline(
        title="Patina",
        version=VERSION,
        summary="Fine-tune SDXL, register, generate.",
        lifespan=lifespan,
        redoc_url=None,
        routes=list(_routes()),
    )
    app.state.parts = parts
    errors.install(app)
    openapi.describe(app)
    app.add_api_route("/", _to_the_description, include_in_schema=False)
    # The last one added is the outermost.
    app.add_middleware(BodyLimitMiddleware, limit_bytes=settings.max_json_bytes)
    app.add_middleware(
        AccessMiddleware, loopback_only=settings.loopback_only, owner_of_key=partial(_owner_of_key, database)
    )
    app.add_middleware(errors.ProblemMiddleware)
    return app


def from_environment() -> FastAPI:
    """The application as PATINA_* variables describe it; a problem ends the process with one sentence."""
    logs.configure()
    try:
        return create_app(ApiSettings())
    except ValidationError as error:
        wrong = "; ".join(f"PATINA_{e.pointer[1:].upper()}: {e.message}" for e in field_errors(error))
        sys.exit(f"The settings cannot be used: {wrong}. See docs/api.md.")
    except PatinaError as error:
        sys.exit(f"{error.message} {error.hint}")


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Everything that can be asked; put together once, as it takes longer than all else of an application.

    Shared routes know no application but the request's: one's own ``dependency_overrides`` do not reach them.
    """
    every = APIRouter()
    every.include_router(health.router)
    native = APIRouter(prefix="/api/v1", responses=EVERYWHERE)
    of_datasets = (datasets, ingest, captions, ledger, versions, uploads, urls, storage)
    for noun in (bases, recipes, *of_datasets, runs, weights, generations, images):
        native.include_router(noun.router)
    every.include_router(native)
    return tuple(every.routes)


def _prepare(parts: Parts) -> None:
    try:
        parts.settings.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PatinaError(
            FailureCode.HOME_UNUSABLE, f"{parts.settings.folder} cannot be written: {error.strerror}."
        ) from None
    remove_leftovers(parts.settings.uploads)
    parts.database.upgrade()
    with parts.database.reading() as session:
        keys.require_one_beyond_loopback(session, parts.settings.host)


async def _to_the_description() -> RedirectResponse:
    return RedirectResponse("/docs")


def _ring(broker: BrokerSettings, queue: str) -> None:
    ring(queue, broker)


def _owner_of_key(database: Database, text: str) -> str | None:
    try:
        with database.reading() as session:
            key = keys.authenticate(session, text)
    except PatinaError:
        return None
    if key.last_used_at is None or time.time() - key.last_used_at > NOTE_USE_EVERY_S:
        with database.session() as session:
            keys.note_use(session, key)
    return key.owner
