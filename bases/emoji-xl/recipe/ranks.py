"""Which of a torchrun's processes this is, and how many there are; alone, the first of one."""

from __future__ import annotations

from torch import distributed


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1
