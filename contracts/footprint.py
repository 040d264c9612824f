"""How much memory a piece of work has alive at its peak, as arithmetic over what a trace of it found.

At any moment of a step what is alive is a sum of tensors whose sizes grow with the images of the batch, with their
latent positions, with the adapter's rank, with products of these, or with nothing. So the peak is the largest of a
few linear expressions, one for each moment that can be the peak. Knows nothing about models.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.config import Frozen

FULL_PRECISION = 4
"""Bytes of a number in fp32."""
Terms = Annotated[tuple[float, ...], Field(min_length=6, max_length=6)]
"""Factors of 1, rank, images, images x rank, positions, positions x rank; positions are those of all images."""


class Work(Frozen):
    """The sizes that a footprint is asked for."""

    images: int
    positions: int
    """Latent positions of one image: its latent's height times width."""
    rank: float = 0.0
    bytes_each: int = 4
    """Of a number of the compute type."""

    @property
    def terms(self) -> tuple[float, ...]:
        """What the factors of ``Terms`` are multiplied with."""
        area = self.images * self.positions
        return (1.0, self.rank, self.images, self.images * self.rank, area, area * self.rank)


class Moment(Frozen):
    """What is alive at one moment, but for copies of fp32 adapters that a compute type of fp32 does without."""

    numbers: Terms
    """Of the compute type."""
    bytes: Terms
    """Of other types, which stay as they are."""

    def at(self, work: Work) -> float:
        """Bytes alive at these sizes."""
        terms = work.terms
        numbers = sum(factor * term for factor, term in zip(self.numbers, terms, strict=True))
        if work.bytes_each == FULL_PRECISION:
            numbers -= self.numbers[1] * work.rank
        fixed = sum(factor * term for factor, term in zip(self.bytes, terms, strict=True))
        return numbers * work.bytes_each + fixed


class Footprint(Frozen):
    """The moments of a piece of work that can be its peak, at one size or another."""

    moments: tuple[Moment, ...]

    def peak_bytes(self, work: Work) -> int:
        """Bytes alive at the peak, beyond what was alive before."""
        return round(max((moment.at(work) for moment in self.moments), default=0.0))
