"""An exponential moving average of everything that is trained, and how it takes the live weights' place for a while.

Polyak and Juditsky 1992. The decay grows to its value, as in TensorFlow's ExponentialMovingAverage, so that early
weights are forgotten soon. Knows nothing about what the weights are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PIECE_ELEMENTS = 1 << 20
"""Elements exchanged or converted at once: two such pieces are what it costs in memory beside the two vectors."""


class Average:
    """The average, in fp32, beside the live weights, which are changed in place.

    Args:
        live: the vector that is trained.
        decay: share of the average that a step keeps, once it has grown to it.
    """

    def __init__(self, live: torch.Tensor, decay: float) -> None:
        self._live = live
        self._decay = decay
        self.vector = live.detach().float().clone()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step``, counted from 1: e ← d e + (1 - d) θ."""
        share = 1 - decay_of(step, self._decay)
        if self._live.dtype is self.vector.dtype:
            self.vector.lerp_(self._live, share)
            return
        for live, average in self._pieces():
            average.lerp_(live.float(), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the live vector holds the average; afterwards it is, bit for bit, what it was."""
        # An exchange needs no third vector, but where the average is rounded to fit there is no way back.
        kept = None if self._live.dtype is self.vector.dtype else self._live.clone()
        self._put_in_place(exchange=kept is None)
        try:
            yield
        finally:
            if kept is None:
                self._put_in_place(exchange=True)
            else:
                self._live.copy_(kept)

    @torch.no_grad()
    def _put_in_place(self, *, exchange: bool) -> None:
        for live, average in self._pieces():
            kept = live.clone()
            live.copy_(average)
            if exchange:
                average.copy_(kept)

    def _pieces(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self._live.split(PIECE_ELEMENTS), self.vector.split(PIECE_ELEMENTS), strict=True)


def decay_of(step: int, decay: float) -> float:
    """d = min(decay, (1 + step) / (10 + step)): the average of a short run is not the weights it began with."""
    return min(decay, (1 + step) / (10 + step))
