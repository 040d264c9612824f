"""A home of its own for each test that starts Patina."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.bases import service as bases
from catalog.db import Database
from contracts.base import BaseDescription, Family
from tests.databases import new_home
from tests.machine import Machine, machine_on
from tests.profiles import small_profile


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    _know_the_demo_base(new_home(tmp_path / "home"))
    with machine_on(tmp_path / "home") as made:
        yield made


def know_a_base(database: Database, name: str, native_px: int) -> None:
    """Enter a base that nobody has to read."""
    description = BaseDescription(
        family=Family.SDXL,
        identity="0" * 64,
        vae_identity="0" * 64,
        native_px=native_px,
        prediction_type="epsilon",
        latent_channels=4,
        vae_factor=8,
        profile=small_profile(),
    )
    with database.session() as session:
        bases.add(session, name, "nowhere", None, description)


def _know_the_demo_base(home: Path) -> None:
    """Enter the demo base as known, so that starting does not spend seconds on reading it."""
    database = Database(f"sqlite:///{home / 'patina.db'}")
    know_a_base(database, "emoji-xl", 64)
    database.close()
