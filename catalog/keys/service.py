"""API keys of the form ``patina_SHORTID_SECRET``. Knows nothing about headers.

The secret is 32 random bytes, so one sha256 of it is enough to keep; slow hashes are for passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog.db import SHARED_OWNER
from catalog.keys import repository
from catalog.keys.models import ApiKey
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.loopback import is_loopback_name

PREFIX = "patina"
OWNER = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class NewKey:
    """A key just made; ``text`` is shown now and never again."""

    key: ApiKey
    text: str


def create(session: Session, owner: str, name: str) -> NewKey:
    """Make a key for an owner.

    Raises:
        InvalidInput: the owner is not a word that can be part of a blob key, or is the instance itself.
    """
    if not OWNER.fullmatch(owner) or owner == SHARED_OWNER:
        message = f"use lowercase letters, digits, _, . and -, and not '{SHARED_OWNER}'"
        raise InvalidInput([FieldError(pointer="/owner", message=message)])
    short_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(id=short_id, owner=owner, name=name, secret_sha256=_hash(secret))
    session.add(key)
    session.flush()
    return NewKey(key, f"{PREFIX}_{short_id}_{secret}")


def authenticate(session: Session, text: str) -> ApiKey:
    """The key this text is; its ``owner`` is the caller.

    Raises:
        PatinaError: UNAUTHENTICATED: malformed, unknown or revoked, not saying which.
    """
    prefix, _, rest = text.partition("_")
    short_id, _, secret = rest.partition("_")
    key = repository.by_short_id(session, short_id) if prefix == PREFIX else None
    expected = key.secret_sha256 if key is not None else _hash("")
    known = hmac.compare_digest(expected, _hash(secret))
    if key is None or not known or key.revoked_at is not None:
        raise PatinaError(FailureCode.UNAUTHENTICATED)
    return key


def note_use(session: Session, key: ApiKey) -> None:
    """Note that a key was used, at most once a minute; needs a writing session."""
    repository.note_use(session, key)


def list_keys(session: Session, owner: str) -> Sequence[ApiKey]:
    """An owner's keys, revoked ones too; never their secrets."""
    return repository.of_owner(session, owner)


def list_every_key(session: Session) -> Sequence[ApiKey]:
    """Everybody's keys, for whoever runs the server: it is their database anyway."""
    return repository.of_everybody(session)


def revoke_anybodys(session: Session, short_id: str) -> ApiKey:
    """End a key, for whoever runs the server; the key as it is then.

    Raises:
        PatinaError: NOT_FOUND.
    """
    key = repository.by_short_id(session, short_id)
    if key is None:
        raise PatinaError(FailureCode.NOT_FOUND, f"There is no key {short_id}.", "List them: patina keys ls.")
    repository.revoke(session, key.owner, short_id)
    session.refresh(key)
    return key


def require_one_beyond_loopback(session: Session, host: str) -> None:
    """Refuse to listen where others reach the server while no key works: it could answer nobody.

    Args:
        host: name or address to listen on; on loopback no key is needed.

    Raises:
        PatinaError: UNAUTHENTICATED.
    """
    if not is_loopback_name(host) and not repository.any_usable(session):
        raise PatinaError(
            FailureCode.UNAUTHENTICATED,
            f"The server would be open to the network on {host}, and there is no API key.",
            "Make one with `patina keys create NAME`, or bind to 127.0.0.1.",
        )


def revoke(session: Session, owner: str, short_id: str) -> None:
    """End a key.

    Raises:
        PatinaError: NOT_FOUND.
    """
    if not repository.revoke(session, owner, short_id):
        raise PatinaError(FailureCode.NOT_FOUND, f"There is no key {short_id}.")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
