"""The tiny base, pictures and finished run that tests/trainer/fixtures.py makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.profiles import few_traces
from tests.trainer.fixtures import base_dir, cache_dir, finished, one_thread, pictures, tokenizers_read_once

__all__ = ["base_dir", "cache_dir", "finished", "one_thread", "pictures", "tokenizers_read_once"]


@pytest.fixture(autouse=True, scope="module")
def quick_traces() -> Iterator[None]:
    """Whoever plans on the tiny base traces it, as tests/trainer/tiny.py trains it."""
    with few_traces():
        yield
