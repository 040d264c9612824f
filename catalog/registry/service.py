"""Registered weights: publish, name, resolve, and refuse another base. Knows nothing about tensors.

``@latest`` and ``@best`` follow by themselves; other aliases are the owner's own. ``@best`` is the version with the
lowest held-out loss among those that can be compared with the latest: same base, same dataset version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.bases.models import Base
from catalog.db import add_unique, new_id
from catalog.paging import DEFAULT_LIMIT, Page, page
from catalog.registry import repository
from catalog.registry.models import Weights, WeightsAlias
from catalog.runs import service as runs
from contracts.adapter import AdapterHeader, shared_denoising
from contracts.base import BaseDescription
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError

ALIAS = re.compile(r"^(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
AUTOMATIC = frozenset({"latest", "best"})
HELD_OUT_METRIC = "held_out_loss"
PUBLISH_TRIES = 5


@dataclass(frozen=True)
class Publication:
    """A weights file in the blob store, as the train worker found it.

    ``metrics`` are numbers by name; ``held_out_loss`` among them makes ``@best``.
    """

    header: AdapterHeader
    blob_key: str
    sha256: str
    bytes: int
    metrics: dict[str, float]
    kind: str = "final"


def publish(session: Session, claim: jobs.Claim, publication: Publication) -> Weights:
    """Register what the run of this claim has trained, under the header's name, as its next version.

    Idempotent: a run publishes a kind once for each step, and a second call returns what the first made. Call
    ``runs.progress.complete`` in the same transaction.

    Raises:
        LeaseLost: another attempt has the run.
        PatinaError: BASE_MISMATCH: the file says that it belongs to another base than the run's.
    """
    jobs.hold(session, claim)
    run = runs.read(session, claim.owner, claim.subject_id)
    header = publication.header
    if header.base_identity != run.base_identity:
        raise mismatch(header.name, header.base_identity, run.base_name, run.base_identity)
    for _ in range(PUBLISH_TRIES):
        earlier = repository.published(session, claim.owner, run.id, publication.kind, header.steps)
        if earlier is not None:
            return earlier
        weights = Weights(
            id=new_id("wts"),
            owner=claim.owner,
            name=header.name,
            version=repository.last_version(session, claim.owner, header.name) + 1,
            kind=publication.kind,
            step=header.steps,
            run_id=run.id,
            base_name=run.base_name,
            base_identity=header.base_identity,
            dataset_digest=run.dataset_digest,
            dataset_name=run.dataset_name,
            dataset_version=run.dataset_version,
            datasets=run.datasets,
            trigger_word=header.trigger_word,
            metrics=dict(publication.metrics),
            header=header.model_dump(mode="json"),
            sha256=publication.sha256,
            bytes=publication.bytes,
            blob_key=publication.blob_key,
        )
        if add_unique(session, weights):  # else another run took this version number meanwhile
            repository.link_versions(session, weights)
            return weights
    raise PatinaError(FailureCode.CONFLICT, f"Too many runs publish '{header.name}' at once.")


def list_weights(
    session: Session, owner: str, cursor: str | None = None, limit: int = DEFAULT_LIMIT, name: str | None = None
) -> Page[Weights]:
    """An owner's weights, every version, newest first; of one name when it is given."""
    query = repository.owned(owner)
    return page(session, query if name is None else query.where(Weights.name == name), Weights, cursor, limit)


def list_versions(session: Session, owner: str, name: str) -> Sequence[Weights]:
    """Versions of a name, newest first.

    Raises:
        PatinaError: NOT_FOUND: there is none.
    """
    found = repository.versions(session, owner, name)
    if not found:
        raise PatinaError(FailureCode.NOT_FOUND, f"There are no weights named '{name}'.")
    return found


def of_run(session: Session, owner: str, run_id: str) -> Sequence[Weights]:
    """What a run has published."""
    return repository.of_run(session, owner, run_id)


def registered_among(session: Session, hashes: Sequence[str]) -> set[str]:
    """Those of the hashes that are of somebody's registered weights, for workers that keep the files."""
    return repository.registered_among(session, hashes)


def read(session: Session, owner: str, weights_id: str) -> Weights:
    """One version by id.

    Raises:
        PatinaError: NOT_FOUND.
    """
    weights = repository.by_id(session, owner, weights_id)
    if weights is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"There are no weights '{weights_id}'.")
    return weights


def resolve(session: Session, owner: str, reference: str) -> Weights:
    """``name``, ``name@latest``, ``name@best``, ``name@3`` or ``name@own-alias``.

    Raises:
        PatinaError: NOT_FOUND, saying which part is not there.
    """
    name, _, word = reference.partition("@")
    return read_version(session, owner, name, word or "latest")


def read_version(session: Session, owner: str, name: str, version_or_alias: str) -> Weights:
    """One version by number or alias.

    Raises:
        PatinaError: NOT_FOUND, saying which part is not there.
    """
    versions = list_versions(session, owner, name)
    number = _number(session, owner, versions, version_or_alias)
    for weights in versions:
        if weights.version == number:
            return weights
    known = ", ".join(str(weights.version) for weights in reversed(versions))
    message = f"'{name}' has no version or alias '{version_or_alias}'; versions: {known}."
    raise PatinaError(FailureCode.NOT_FOUND, message)


def set_alias(session: Session, owner: str, name: str, alias: str, version: int) -> Weights:
    """Point an own alias at a version; it moves when it exists.

    Raises:
        InvalidInput: the alias is automatic, a number, or not a word.
        PatinaError: NOT_FOUND: there is no such version.
    """
    if alias in AUTOMATIC or not ALIAS.fullmatch(alias):
        message = "choose a word of letters, digits, '.', '_' and '-' that is not a number, 'latest' or 'best'"
        raise InvalidInput([FieldError(pointer="/alias", message=message)])
    weights = read_version(session, owner, name, str(version))
    row = repository.alias(session, owner, name, alias)
    if row is None:
        row = WeightsAlias(owner=owner, name=name, alias=alias)
        session.add(row)
    row.version = weights.version
    session.flush()
    return weights


def remove_alias(session: Session, owner: str, name: str, alias: str) -> None:
    """Forget an own alias.

    Raises:
        PatinaError: NOT_FOUND.
    """
    if not repository.remove_alias(session, owner, name, alias):
        raise PatinaError(FailureCode.NOT_FOUND, f"'{name}' has no alias '{alias}' of your own.")


def aliases_of(session: Session, owner: str, weights: Sequence[Weights]) -> dict[str, list[str]]:
    """For each weights id, every alias that means it now: latest, best, and the owner's own."""
    names = sorted({row.name for row in weights})
    words: dict[tuple[str, int], list[str]] = {}
    for name in names:
        versions = repository.versions(session, owner, name)
        words.setdefault((name, versions[0].version), []).append("latest")
        best = _best(versions)
        if best is not None:
            words.setdefault((name, best.version), []).append("best")
    for alias in repository.aliases(session, owner, names):
        words.setdefault((alias.name, alias.version), []).append(alias.alias)
    return {row.id: words.get((row.name, row.version), []) for row in weights}


def check_base(weights: Weights, base: Base) -> None:
    """Refuse weights on another base than the one they were trained on.

    Raises:
        PatinaError: BASE_MISMATCH, naming both identities.
    """
    if weights.base_identity != base.identity:
        raise mismatch(
            f"{weights.name}@{weights.version}", weights.base_identity, base.name, base.identity or "unknown"
        )


def check_scales(chosen: Sequence[tuple[Weights, float]]) -> None:
    """Refuse a strength for full fine-tunes: they take the base's place whole, or not at all.

    Raises:
        InvalidInput: with each one that has a scale other than 1.
    """
    errors = [
        FieldError(
            pointer=f"/weights/{number}/scale",
            message=f"must be 1: '{weights.name}@{weights.version}' is a full fine-tune, which acts whole",
        )
        for number, (weights, scale) in enumerate(chosen)
        if weights.header.get("method") == "full" and scale != 1
    ]
    if errors:
        raise InvalidInput(errors, hint="Leave its scale out, or leave it out itself; only a LoRA can act in part.")


def check_together(weights: Sequence[Weights], base: BaseDescription) -> None:
    """Refuse weights that were trained to predict different things, of which no picture can be made.

    Raises:
        InvalidInput: naming what each predicts.
    """
    shared_denoising(base.denoising, [AdapterHeader.model_validate(row.header) for row in weights])


def mismatch(weights_name: str, weights_base: str, base_name: str, base_identity: str) -> PatinaError:
    """The refusal of weights on another base, with both identities."""
    return PatinaError(
        FailureCode.BASE_MISMATCH,
        f"The weights '{weights_name}' belong to the base with identity {weights_base}, "
        f"but '{base_name}' has identity {base_identity}.",
    )


def _number(session: Session, owner: str, versions: Sequence[Weights], word: str) -> int | None:
    name = versions[0].name
    if word == "latest":
        return versions[0].version
    if word == "best":
        best = _best(versions)
        if best is None:
            message = f"'{name}' has no best version: no version like the latest has a held-out loss."
            raise PatinaError(FailureCode.NOT_FOUND, message, "Freeze the dataset with a held-out share, and train.")
        return best.version
    if word.isdecimal():
        return int(word)
    alias = repository.alias(session, owner, name, word)
    return None if alias is None else alias.version


def _best(versions: Sequence[Weights]) -> Weights | None:
    latest = versions[0]
    comparable = [
        weights
        for weights in versions
        if weights.base_identity == latest.base_identity
        and weights.dataset_digest == latest.dataset_digest
        and _held_out_loss(weights.metrics) is not None
    ]
    return min(comparable, key=lambda weights: (_held_out_loss(weights.metrics), -weights.version), default=None)


def _held_out_loss(metrics: dict[str, Any]) -> float | None:
    value = metrics.get(HELD_OUT_METRIC)
    return None if value is None else float(value)
