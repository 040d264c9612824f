"""Homes with an empty database of the newest schema: it is migrated once for a process and copied, which is cheaper."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from catalog.db import Database


def new_home(folder: Path) -> Path:
    """The folder, made, with a database in it as the first start would leave it; one that has one keeps its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "patina.db").exists():
        (folder / "patina.db").write_bytes(_migrated())
    return folder


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "patina.db"
        database = Database(f"sqlite:///{file}")
        database.upgrade()
        database.close()
        return file.read_bytes()
