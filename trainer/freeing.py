"""Memory of what has gone goes back to the system: before the model comes, what encoded for it is no longer counted.

The allocators below torch keep what is freed for themselves: glibc's heap as soon as something that stays lies above
it (at full size the 3.3 GB of text encoders stayed in the process beside the UNet), CUDA's for what the process makes
next.
"""

from __future__ import annotations

import ctypes

import torch


def give_back_memory() -> None:
    """Return every free page; on a C library that cannot say so, as on macOS, it is left to that library."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
