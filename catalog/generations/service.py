"""Generations: asked for by owners, done by the engine's worker. Knows nothing about HTTP or pixels.

Base, weights, size and seed are resolved when the request is made: a later version of the weights or another base of
the same name changes nothing, and weights of another base are refused at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog import jobs
from catalog.bases import service as bases
from catalog.bases.models import Base
from catalog.datasets import service as datasets
from catalog.db import db_now, new_id
from catalog.generations import repository
from catalog.generations.models import Generation, GenerationImage
from catalog.job_requests import request_cancel
from catalog.paging import DEFAULT_LIMIT, Page, page
from catalog.registry import service as registry
from catalog.registry.models import Weights
from catalog.runs import service as runs
from catalog.workers import service as workers
from contracts.failures import FAILURES, FailureCode, FieldError, InvalidInput, PatinaError
from contracts.generate import MAX_SEED, GenerationRequest, GenerationStatus

FINISHED = frozenset({GenerationStatus.SUCCEEDED, GenerationStatus.FAILED, GenerationStatus.CANCELLED})


@dataclass(frozen=True)
class ChosenWeights:
    """Weights a generation uses, and how strongly."""

    weights_id: str
    name: str
    version: int
    scale: float
    sha256: str
    blob_key: str


@dataclass(frozen=True)
class Work:
    """A claimed generation with all the engine needs; ``base_source`` is a path on the server."""

    claim: jobs.Claim
    generation_id: str
    request: GenerationRequest
    base_source: str
    base_identity: str
    weights: tuple[ChosenWeights, ...]


@dataclass(frozen=True)
class MadeImage:
    """A picture in the blob store."""

    seed: int
    width: int
    height: int
    sha256: str
    blob_key: str
    bytes: int


@dataclass(frozen=True)
class GenerationView:
    """A generation with its pictures; ``waiting_for`` is "device" while runs hold every device, else None."""

    generation: Generation
    images: Sequence[GenerationImage]
    waiting_for: str | None


def create(session: Session, owner: str, request: GenerationRequest, priority: int = 0) -> Generation:
    """Resolve the request and queue it; a seed is drawn when it has none.

    Raises:
        InvalidInput: several bases and none named, or none at all; weights trained to predict different things, or a
            full fine-tune with a scale.
        PatinaError: NOT_FOUND (weights), UNKNOWN_BASE, or BASE_MISMATCH naming both identities.
    """
    chosen = [(choice, registry.resolve(session, owner, choice.weights)) for choice in request.weights]
    base = _base(session, owner, request, [weights for _, weights in chosen])
    for _, weights in chosen:
        registry.check_base(weights, base)
    registry.check_scales([(weights, choice.scale) for choice, weights in chosen])
    known = bases.description_of(base)
    registry.check_together([weights for choice, weights in chosen if choice.scale != 0], known)
    resolved = request.model_copy(
        update={
            "base": base.name,
            "width": request.width or known.native_px,
            "height": request.height or known.native_px,
            "seed": secrets.randbelow(MAX_SEED - request.images) if request.seed is None else request.seed,
        }
    )
    generation = Generation(
        id=new_id("gen"),
        owner=owner,
        request=resolved.model_dump(mode="json"),
        base_id=base.id,
        base_name=base.name,
        base_identity=base.identity,
        weights=[
            {"id": w.id, "name": w.name, "version": w.version, "scale": choice.scale, "sha256": w.sha256}
            for choice, w in chosen
        ],
    )
    session.add(generation)
    session.flush()
    jobs.enqueue(session, owner, jobs.Queue.GENERATE, jobs.Kind.GENERATE, generation.id, priority)
    return generation


def list_generations(
    session: Session, owner: str, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[Generation]:
    """An owner's generations, newest first."""
    return page(session, repository.owned(owner), Generation, cursor, limit)


def read(session: Session, owner: str, generation_id: str) -> GenerationView:
    """One generation with its pictures.

    Raises:
        PatinaError: NOT_FOUND.
    """
    generation = _find(session, owner, generation_id)
    waiting = None
    if generation.status == GenerationStatus.QUEUED:
        slots = workers.list_slots(session)
        waiting = "device" if slots and all(slot.held_by == "job" for slot in slots) else None
    return GenerationView(generation, repository.images(session, owner, generation.id), waiting)


def cancel(session: Session, owner: str, generation_id: str) -> Generation:
    """Cancel: at once while it is queued, at the next step while the engine has it. Twice is once.

    Raises:
        PatinaError: NOT_FOUND, or CONFLICT when it has succeeded or failed.
    """
    generation = _find(session, owner, generation_id)
    if generation.status == GenerationStatus.CANCELLED:
        return generation
    if generation.status in FINISHED:
        raise PatinaError(FailureCode.CONFLICT, f"The generation has {generation.status}; there is nothing to cancel.")
    left = request_cancel(session, owner, jobs.Kind.GENERATE, generation.id)
    generation = _find(session, owner, generation_id)
    if left == jobs.JobState.CANCELLED:
        _end(session, generation, GenerationStatus.CANCELLED)
    generation.cancel_requested = True
    session.flush()
    return generation


def begin(session: Session, claim: jobs.Claim) -> Work:
    """The engine starts on a claimed generation.

    Raises:
        LeaseLost: another attempt has it.
    """
    generation = _held(session, claim)
    generation.status = GenerationStatus.RUNNING
    generation.started_at = db_now()
    session.flush()
    base = bases.read_by_id(session, claim.owner, generation.base_id)
    chosen = tuple(
        ChosenWeights(
            weights_id=entry["id"],
            name=entry["name"],
            version=entry["version"],
            scale=entry["scale"],
            sha256=entry["sha256"],
            blob_key=registry.read(session, claim.owner, entry["id"]).blob_key,
        )
        for entry in generation.weights
    )
    request = GenerationRequest.model_validate(generation.request)
    return Work(claim, generation.id, request, base.source, generation.base_identity, chosen)


def complete(session: Session, claim: jobs.Claim, images: Sequence[MadeImage], seconds: float) -> None:
    """The pictures are stored; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    generation = _held(session, claim)
    for position, image in enumerate(images):
        session.add(GenerationImage(generation_id=generation.id, owner=claim.owner, position=position, **vars(image)))
    generation.seconds = seconds
    _end(session, generation, GenerationStatus.SUCCEEDED)
    jobs.finish(session, claim.job_id, claim.fence)


def fail(
    session: Session, claim: jobs.Claim, code: FailureCode, message: str, hint: str, reference: str | None = None
) -> None:
    """It cannot be done; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    generation = _held(session, claim)
    _note_failure(generation, code, message, hint, reference)
    _end(session, generation, GenerationStatus.FAILED)
    jobs.finish(session, claim.job_id, claim.fence, jobs.JobState.FAILED)


def cancelled(session: Session, claim: jobs.Claim) -> None:
    """The engine has dropped it because the owner asked for it; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    _end(session, _held(session, claim), GenerationStatus.CANCELLED)
    jobs.finish(session, claim.job_id, claim.fence, jobs.JobState.CANCELLED)


def give_back(session: Session, claim: jobs.Claim) -> None:
    """The engine is stopping before it was done: another one takes it up.

    Raises:
        LeaseLost: another attempt has it.
    """
    generation = _held(session, claim)
    if jobs.release(session, claim.job_id, claim.fence, failed=False) == jobs.JobState.CANCELLED:
        _end(session, generation, GenerationStatus.CANCELLED)
    else:
        generation.status = GenerationStatus.QUEUED
        session.flush()


def after_sweep(session: Session, owner: str, generation_id: str, state: jobs.JobState) -> None:
    """The sweep has changed the generation's job: queued again, failed or cancelled; the generation follows."""
    generation = repository.by_id(session, owner, generation_id)
    if generation is None or generation.status in FINISHED:
        return
    if state == jobs.JobState.QUEUED:
        generation.status = GenerationStatus.QUEUED
        session.flush()
    elif state == jobs.JobState.CANCELLED:
        _end(session, generation, GenerationStatus.CANCELLED)
    elif state == jobs.JobState.FAILED:
        words = FAILURES[FailureCode.WORKER_LOST]
        _note_failure(generation, FailureCode.WORKER_LOST, words.message, words.hint, None)
        _end(session, generation, GenerationStatus.FAILED)


def find_image(session: Session, owner: str, sha256: str) -> str | None:
    """Blob key of any picture the owner may see by hash: generated, previewed while training, or uploaded."""
    made = repository.image_by_hash(session, owner, sha256)
    if made is not None:
        return made.blob_key
    return runs.find_preview(session, owner, sha256) or datasets.find_image(session, owner, sha256)


def _find(session: Session, owner: str, generation_id: str) -> Generation:
    generation = repository.by_id(session, owner, generation_id)
    if generation is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"There is no generation '{generation_id}'.")
    return generation


def _held(session: Session, claim: jobs.Claim) -> Generation:
    jobs.hold(session, claim)
    return _find(session, claim.owner, claim.subject_id)


def _base(session: Session, owner: str, request: GenerationRequest, weights: Sequence[Weights]) -> Base:
    if request.base is not None:
        return bases.read_ready(session, owner, request.base)
    if weights:
        found = bases.find_by_identity(session, owner, weights[0].base_identity)
        if found is None:
            message = f"The base of '{weights[0].name}' (identity {weights[0].base_identity}) is not on this server."
            raise PatinaError(FailureCode.UNKNOWN_BASE, message)
        return found
    only = bases.only_base(session, owner)
    if only is None:
        message = "name a base: there is more than one, or none; `patina bases ls` lists them"
        raise InvalidInput([FieldError(pointer="/base", message=message)])
    return only


def _end(session: Session, generation: Generation, status: GenerationStatus) -> None:
    generation.status = status
    generation.finished_at = db_now()
    session.flush()
    session.refresh(generation, ["finished_at"])


def _note_failure(generation: Generation, code: FailureCode, message: str, hint: str, reference: str | None) -> None:
    generation.failure_code, generation.failure_message = code, message
    generation.failure_hint, generation.failure_reference = hint, reference
