"""The tiny base, pictures and finished run that tests/trainer/fixtures.py makes."""

from __future__ import annotations

from tests.trainer.fixtures import base_dir, cache_dir, finished, one_thread, pictures, tokenizers_read_once

__all__ = ["base_dir", "cache_dir", "finished", "one_thread", "pictures", "tokenizers_read_once"]
