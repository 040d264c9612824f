"""Base models of this server. Knows nothing about how a base is read (sdxl.base) or where HTTP shows it.

Bases are added on the server alone and belong to the instance (owner ``shared``): every key may read and use them.
Weights and datasets belong strictly to their owner.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import ValidationError
from sqlalchemy.orm import Session

from catalog import jobs
from catalog.bases import repository
from catalog.bases.models import Base
from catalog.db import SHARED_OWNER, add_unique, new_id
from catalog.job_requests import enqueue_once
from catalog.paging import DEFAULT_LIMIT, Page, page
from contracts.base import BaseDescription
from contracts.failures import FailureCode, PatinaError


class BaseStatus(StrEnum):
    """Whether a base can be used."""

    ADDING = "adding"
    READY = "ready"
    FAILED = "failed"


def add(session: Session, name: str, source: str, licence: str | None, description: BaseDescription) -> Base:
    """Add a base that has been described; the same weights under the same name are the same base.

    Raises:
        PatinaError: CONFLICT: the name is another base's.
    """
    base = _claim_name(session, name, source, licence, description.identity)
    _fill(base, description)
    session.flush()
    return base


def request_add(session: Session, name: str, source: str, licence: str | None) -> Base:
    """Add a base the generate worker is to describe: a ``base_add`` job whose subject is the base's id.

    Raises:
        PatinaError: CONFLICT: the name is another base's.
    """
    base = _claim_name(session, name, source, licence, None)
    base.status = BaseStatus.ADDING
    session.flush()
    enqueue_once(session, SHARED_OWNER, jobs.Queue.GENERATE, jobs.Kind.BASE_ADD, base.id)
    return base


def complete_add(session: Session, claim: jobs.Claim, description: BaseDescription) -> Base:
    """The worker has described the base; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    jobs.hold(session, claim)
    base = _held(session, claim)
    _fill(base, description)
    session.flush()
    jobs.finish(session, claim.job_id, claim.fence)
    return base


def fail_add(session: Session, claim: jobs.Claim, code: FailureCode, message: str) -> None:
    """The base cannot be read; ends the job.

    Raises:
        LeaseLost: another attempt has it.
    """
    jobs.hold(session, claim)
    mark_failed(session, claim.owner, claim.subject_id, code, message)
    jobs.finish(session, claim.job_id, claim.fence, jobs.JobState.FAILED)


def mark_failed(session: Session, owner: str, base_id: str, code: FailureCode, message: str) -> None:
    """Note that a base was not added; for the sweep."""
    base = repository.by_id(session, owner, base_id)
    if base is not None and base.status == BaseStatus.ADDING:
        base.status, base.failure_code, base.failure_message = BaseStatus.FAILED, code, message
        session.flush()


def list_bases(session: Session, owner: str, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page[Base]:
    """Bases this owner may use, newest first; also those being added or failed."""
    return page(session, repository.visible(owner), Base, cursor, limit)


def read(session: Session, owner: str, name: str) -> Base:
    """One base by name.

    Raises:
        PatinaError: UNKNOWN_BASE, naming those there are.
    """
    base = repository.by_name(session, owner, name)
    if base is None:
        raise PatinaError(FailureCode.UNKNOWN_BASE, _unknown(session, owner, name))
    return base


def read_ready(session: Session, owner: str, name: str) -> Base:
    """One base by name that can be trained on and generated with.

    Raises:
        PatinaError: UNKNOWN_BASE: it is not there, or not (yet) usable.
    """
    base = read(session, owner, name)
    if base.status != BaseStatus.READY:
        raise PatinaError(FailureCode.UNKNOWN_BASE, f"The base '{name}' is not ready: its status is {base.status}.")
    return base


def read_by_id(session: Session, owner: str, base_id: str) -> Base:
    """One base by id, for workers.

    Raises:
        PatinaError: UNKNOWN_BASE.
    """
    base = repository.by_id(session, owner, base_id)
    if base is None:
        raise PatinaError(FailureCode.UNKNOWN_BASE)
    return base


def find_by_identity(session: Session, owner: str, identity: str) -> Base | None:
    """A usable base with exactly these weights, or None."""
    return repository.by_identity(session, owner, identity)


def only_base(session: Session, owner: str) -> Base | None:
    """The base to use when none is named: the only one, or None."""
    ready = repository.all_ready(session, owner)
    return ready[0] if len(ready) == 1 else None


def description_of(base: Base) -> BaseDescription:
    """What is known of a ready base.

    Raises:
        PatinaError: CONFLICT: an older version added it, which knew other things of it.
    """
    try:
        return BaseDescription.model_validate(base.description)
    except ValidationError:
        raise PatinaError(
            FailureCode.CONFLICT,
            f"The base '{base.name}' was added by another version of Patina.",
            f"Add it again: `patina bases add {base.source} --name {base.name}`.",
        ) from None


def is_known(base: Base) -> bool:
    """Whether it was described as this version describes bases."""
    try:
        description_of(base)
    except PatinaError:
        return False
    return True


def _claim_name(session: Session, name: str, source: str, licence: str | None, identity: str | None) -> Base:
    base = repository.by_name(session, SHARED_OWNER, name)
    if base is None:
        base = Base(id=new_id("base"), owner=SHARED_OWNER, name=name, status=BaseStatus.ADDING, source=source)
        if not add_unique(session, base):
            raise PatinaError(FailureCode.CONFLICT, f"The name '{name}' is being added at this moment.")
    elif base.identity is not None and base.identity != identity:
        raise PatinaError(
            FailureCode.CONFLICT,
            f"The name '{name}' is taken by another base ({base.identity}).",
            "Add it under another name.",
        )
    base.source, base.licence = source, licence
    base.failure_code = base.failure_message = None
    return base


def _fill(base: Base, description: BaseDescription) -> None:
    base.status = BaseStatus.READY
    base.identity = description.identity
    base.description = description.model_dump(mode="json")


def _held(session: Session, claim: jobs.Claim) -> Base:
    base = repository.by_id(session, claim.owner, claim.subject_id)
    assert base is not None, "a job's subject exists as long as the job"
    return base


def _unknown(session: Session, owner: str, name: str) -> str:
    names = ", ".join(base.name for base in repository.all_ready(session, owner))
    return f"There is no base named '{name}'; " + (f"there are: {names}." if names else "none has been added yet.")
