"""What the API answers about registered weights; where their file lies is never told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from api.schemas.common import Answer, moment
from api.schemas.runs import RunDataset
from catalog.registry import service
from catalog.registry.models import Weights


class WeightsBase(Answer):
    """The base weights belong to; on any other they are refused."""

    name: str
    identity: str


class WeightsDataset(Answer):
    """The frozen version weights were trained on; of several the first, with the digest of all."""

    name: str | None
    version: int | None
    digest: str | None


class WeightsOut(Answer):
    """One version of named weights."""

    id: str
    name: str
    version: int
    aliases: list[str]
    """Words that mean this version now."""
    kind: str
    steps: int
    """Optimiser steps they were trained for."""
    base: WeightsBase
    run: str | None
    dataset: WeightsDataset
    datasets: list[RunDataset]
    """Every version they were trained on."""
    trigger_word: str | None
    metrics: dict[str, Any]
    header: dict[str, Any]
    """What the file says of itself: rank, alpha, targets, resolution, prediction type."""
    sha256: str
    bytes: int
    url: str
    """The safetensors file."""
    created_at: datetime


class WeightsName(Answer):
    """A name and all its versions, newest first."""

    name: str
    versions: list[WeightsOut]


def weights_out(session: Session, owner: str, rows: Sequence[Weights]) -> list[WeightsOut]:
    """Catalog rows as the API shows them, each with the aliases that mean it now."""
    aliases = service.aliases_of(session, owner, rows)
    return [_out(row, aliases[row.id]) for row in rows]


def _out(row: Weights, aliases: list[str]) -> WeightsOut:
    return WeightsOut(
        id=row.id,
        name=row.name,
        version=row.version,
        aliases=aliases,
        kind=row.kind,
        steps=row.step,
        base=WeightsBase(name=row.base_name, identity=row.base_identity),
        run=row.run_id,
        dataset=WeightsDataset(name=row.dataset_name, version=row.dataset_version, digest=row.dataset_digest),
        datasets=[RunDataset.model_validate(one) for one in row.datasets],
        trigger_word=row.trigger_word,
        metrics=row.metrics,
        header=row.header,
        sha256=row.sha256,
        bytes=row.bytes,
        url=f"/api/v1/weights/{row.name}/{row.version}/file",
        created_at=moment(row.created_at),
    )
