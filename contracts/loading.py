"""Import large libraries without searching what they make for garbage.

What a library's modules hold stays until the process ends. Searching it again and again while more is loaded takes a
quarter of the trainer's start, and searching it once more at the end takes over a second. Knows nothing about which
libraries.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Meanwhile nothing is collected; afterwards everything that is there is left out of every later search."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
