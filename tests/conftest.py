"""For every test: threads that wait give their core away at once, as tests run side by side; and the longest files
come first.

No worker is left alone with one of them at the end.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What is imported and collected stays: looking for garbage in it, now and at every later search, takes seconds.
gc.disable()

ROOT = Path(__file__).parent
LONGEST = (
    "e2e/test_the_whole_way.py",
    "worker/test_killed_worker.py",
    "worker/test_train.py",
    "inference/test_engine.py",
    "invariants/test_same_result.py",
    "patina/test_reading.py",
    "worker/test_generate.py",
    "trainer/test_run.py",
    "trainer/test_objective_run.py",
    "patina/test_sending.py",
    "sdxl/test_lora.py",
    "trainer/test_strengths.py",
    "trainer/test_memory_saving.py",
)
"""By measured time, in `make test` or `make test-slow`; a file not named here comes in its usual place after them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Structlog's own default renders local variables into traces, which takes seconds each."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def known_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of bases' shapes: the tiny one's is kept beside the tests, as a trace takes half a minute."""
    return Path(shutil.copytree(ROOT / "shapes", tmp_path_factory.mktemp("known") / "shapes"))
