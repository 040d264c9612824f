"""For every test: threads that wait give their core away, as in the product; and the longest files come first.

So no worker is left alone with one of them at the end.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contracts.settings import WAITING_THREADS

os.environ.update({**WAITING_THREADS, **os.environ})

ROOT = Path(__file__).parent
LONGEST = (
    "e2e/test_the_whole_way.py",
    "invariants/test_same_result.py",
    "patina/test_supervise.py",
    "patina/test_sending.py",
    "e2e/test_round_trip.py",
)
"""By measured time of one run on two cores; a file that is not named here comes in its usual place after them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
