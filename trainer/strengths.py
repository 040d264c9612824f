"""How strongly an adapter's layers act where it is measured, shown and published: block weights.

Training itself never sees them. A layer's strength scales its update B A, so it scales B alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from contracts.lora import by_pattern

UP = ".lora_B.weight"


class Strengths:
    """The strengths that are not 1.

    Args:
        parameters: an adapter's, by diffusers' PEFT keys (``unet.`` or a text encoder's name in front).
        patterns: strengths by globs over the layers' names, which have no component in front.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], patterns: Mapping[str, float]) -> None:
        ups = ((key.removesuffix(UP).partition(".")[2], up) for key, up in parameters.items() if key.endswith(UP))
        strengths = [(up, by_pattern(patterns, name, 1.0)) for name, up in ups]
        self._scaled = [(up, strength) for up, strength in strengths if strength != 1]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the updates have their strengths; afterwards they are, bit for bit, what they were."""
        kept = [up.detach().clone() for up, _ in self._scaled]
        try:
            with torch.no_grad():
                for up, strength in self._scaled:
                    up.mul_(strength)
            yield
        finally:
            with torch.no_grad():
                for (up, _), was in zip(self._scaled, kept, strict=True):
                    up.copy_(was)

    @torch.no_grad()
    def undo(self) -> None:
        """Give updates that have their strengths, for good, what they had in training.

        What a strength of 0 has left nothing of begins anew.
        """
        for up, strength in self._scaled:
            if strength and bool(up.any()):
                up.div_(strength)
