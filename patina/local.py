"""What is done on the server's own machine and database rather than over HTTP: migrations, bases, keys.

Run as `python -m patina.local VERB …` by the command and the supervisor, so that neither loads a database driver;
prints one JSON document, the answer or the problem. Reading a base takes torch and is again a child's work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker import embedded
from catalog.bases import service as bases
from catalog.db import LOCAL_OWNER, SHARED_OWNER, Database
from catalog.keys import service as keys
from catalog.keys.models import ApiKey
from contracts.base import BaseDescription
from contracts.failures import PatinaError
from patina.child import ask
from patina.problems import as_json, to_problem, unexpected
from patina.settings import Settings, read_settings

DEMO_BASE = "emoji-xl"
DEMO_LICENCE = "Apache-2.0"
REPOSITORY = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    """Do one verb; the exit code."""
    verb, *rest = arguments
    try:
        document, code = VERBS[verb](read_settings(), *rest), 0
    except PatinaError as error:
        document, code = to_problem(error), 1
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the caller gets a reference to it
        document, code = to_problem(unexpected(error)), 1
    sys.stdout.write(as_json(document) + "\n")
    return code


def prepare(settings: Settings) -> dict[str, Any]:
    """Bring the database to the newest schema; whether the demo base is still to be added.

    Raises:
        PatinaError: UNAUTHENTICATED, the server would listen beyond loopback and no API key works.
    """
    database = _database(settings)
    present = (REPOSITORY / "bases" / DEMO_BASE / "model_index.json").is_file()
    with database.reading() as session:
        keys.require_one_beyond_loopback(session, settings.host)
        found = bases.list_bases(session, SHARED_OWNER).items
        known = any(base.name == DEMO_BASE and base.identity and bases.is_known(base) for base in found)
    return {"demo_base_missing": present and not known}


def add_demo_base(settings: Settings) -> dict[str, Any]:
    """Add the base of this repository."""
    return add_base(settings, DEMO_BASE, str(REPOSITORY / "bases" / DEMO_BASE), DEMO_LICENCE)


def add_base(settings: Settings, name: str, source: str, licence: str = "") -> dict[str, Any]:
    """Read a base in a process with torch, then add it where it lies: its files are not copied."""
    cache = settings.cache or settings.folder / "cache"
    described = ask("sdxl", "describe", source, str(cache / "identities"))
    description = BaseDescription.model_validate(described)
    with _database(settings).session() as session:
        base = bases.add(session, name, source, licence or None, description)
        return {
            "name": base.name,
            "status": str(base.status),
            "licence": base.licence,
            "source": source,
            "identity": description.identity,
            "native_px": description.native_px,
            "prediction_type": description.prediction_type,
            "parameters": description.profile.unet_parameters,
        }


def create_key(settings: Settings, name: str, owner: str = LOCAL_OWNER) -> dict[str, Any]:
    """Make a key; its text is in the answer and nowhere else."""
    with _database(settings).session() as session:
        made = keys.create(session, owner, name)
        return {"id": made.key.id, "name": name, "owner": owner, "key": made.text}


def list_keys(settings: Settings) -> dict[str, Any]:
    """Everybody's keys."""
    with _database(settings).reading() as session:
        return {"items": [_told(key) for key in keys.list_every_key(session)]}


def revoke_key(settings: Settings, short_id: str) -> dict[str, Any]:
    """End a key, whoever's it is."""
    with _database(settings).session() as session:
        return _told(keys.revoke_anybodys(session, short_id))


def find_broker(_settings: Settings) -> dict[str, Any]:
    """The program the embedded broker would run."""
    return {"program": embedded.find_program()}


def _told(key: ApiKey) -> dict[str, Any]:
    """A key without its secret."""
    names = ("id", "name", "owner", "created_at", "last_used_at", "revoked_at")
    return {name: getattr(key, name) for name in names}


def _database(settings: Settings) -> Database:
    database = Database(settings.database_url or f"sqlite:///{settings.folder / 'patina.db'}")
    database.upgrade()
    return database


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "add-demo-base": add_demo_base,
    "add-base": add_base,
    "create-key": create_key,
    "list-keys": list_keys,
    "revoke-key": revoke_key,
    "find-broker": find_broker,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
