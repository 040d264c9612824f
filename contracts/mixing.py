"""Several dataset versions in one run: what is trained on, what is measured, and how often each image is seen.

Pure arithmetic, the same for plan and trainer. The rules:

- An image is seen ``repeats`` x its version's weight x its concept's weight times an epoch, exactly. Where that is no
  whole number, so many epochs see it once more than others that after any number of epochs it was seen the whole part
  of what is due, or one more; which epochs those are follows from its place in the versions alone, never from a step,
  a rank or a seed.
- An image in several versions counts in each: with that version's caption, repeats and weight. Its pixels are the same.
- An image that any version holds out is not trained on through another; it is measured once for each caption it has
  where it is held out, whatever the weights.

The order in which versions are named changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, NamedTuple

from pydantic import Field

from contracts.config import Frozen, digest
from contracts.dataset import DatasetSummary, Split, VersionRow, canonical_place, in_canonical_order
from contracts.failures import FieldError, InvalidInput

MOST_VERSIONS = 32
"""In one run."""

Weight = Annotated[float, Field(ge=0.01, le=100)]
"""How often an image of a version is seen, relative to weight 1; taken as the decimal number it is written as."""


class Share(Frozen):
    """A version that feeds a run, by its digest."""

    digest: str
    weight: Weight = 1.0


class Source(NamedTuple):
    """The rows of a version, and its share of the run."""

    rows: Sequence[VersionRow]
    share: Share


class Pick(NamedTuple):
    """A row that is trained on, and how often an epoch sees it."""

    row: VersionRow
    rate: Fraction


@dataclass(frozen=True)
class Sometimes:
    """A sample some epochs have and others have not: ``share`` of them, evenly spread, beginning at ``phase``."""

    share: Fraction
    phase: Fraction

    def is_in(self, epoch: int) -> bool:
        """Whether this epoch, counted from 0, has it."""
        # Of integers, because this is asked for every such sample of every epoch.
        below = self.share.denominator * self.phase.denominator
        step, first = self.share.numerator * self.phase.denominator, self.phase.numerator * self.share.denominator
        return ((epoch + 1) * step + first) // below > (epoch * step + first) // below


@dataclass(frozen=True)
class Samples:
    """What epochs are made of: each row as often as an epoch can see it."""

    rows: tuple[VersionRow, ...]
    sometimes: dict[int, Sometimes]
    """The samples, by their place in ``rows``, that not every epoch has."""


@dataclass(frozen=True)
class Mixture:
    """One or several versions as one run sees them."""

    train: tuple[Pick, ...]
    """In canonical order."""
    held_out: tuple[VersionRow, ...]
    kept_out: int
    """Images one version trains on and another holds out: they are not trained on."""
    shares: tuple[Share, ...]
    digest: str

    @property
    def rows(self) -> tuple[VersionRow, ...]:
        """Everything that is trained on or measured."""
        return (*(pick.row for pick in self.train), *self.held_out)

    @property
    def samples(self) -> Samples:
        """What epochs are made of."""
        return _samples(self.train)

    @property
    def named_shares(self) -> tuple[Share, ...]:
        """The versions and weights that the digest alone does not tell: none for one version with weight 1."""
        return () if self.digest == self.shares[0].digest else self.shares

    @property
    def images_an_epoch(self) -> int:
        """Samples an epoch has, on average."""
        return round(sum(pick.rate for pick in self.train))


def mix(sources: Iterable[Source], concept_weights: Mapping[str, float] | None = None) -> Mixture:
    """Put the versions together by the rules above; one version with weight 1 is itself.

    Args:
        concept_weights: by concept, how often its images are seen relative to 1; times their version's weight.

    Raises:
        InvalidInput: no image has one of those concepts.
    """
    weights = concept_weights or {}
    ordered = sorted(sources, key=lambda source: (source.share.digest, source.share.weight))
    kept_out = {row.image for source in ordered for row in source.rows if row.split is Split.HELD_OUT}
    picks = [
        Pick(row, row.repeats * exactly(source.share.weight) * exactly(weights.get(row.concept or "", 1.0)))
        for source in ordered
        for row in source.rows
        if row.split is Split.TRAIN
    ]
    _refuse_unknown(weights, {pick.row.concept for pick in picks if pick.row.concept})
    trained = [pick for pick in picks if pick.row.image not in kept_out]
    shares = tuple(source.share for source in ordered)
    return Mixture(
        train=tuple(sorted(trained, key=lambda pick: canonical_place(pick.row))),
        held_out=_measured(ordered),
        kept_out=len({pick.row.image for pick in picks} & kept_out),
        shares=shares,
        digest=mixture_digest(shares),
    )


def mixture_digest(shares: Iterable[Share]) -> str:
    """What names the content of a run: a version's own digest, or one over several and their weights."""
    listed = sorted((share.digest, share.weight) for share in shares)
    if len(listed) == 1 and listed[0][1] == 1:
        return listed[0][0]
    return digest([[name, str(exactly(weight))] for name, weight in listed])


def summarise_mixture(mixture: Mixture) -> DatasetSummary:
    """Count a mixture for planning: an epoch's mean where not every epoch has the same samples."""
    sizes: dict[str, Fraction] = {}
    for row, rate in mixture.train:
        size = f"{row.original_width}x{row.original_height}"
        sizes[size] = sizes.get(size, Fraction(0)) + rate
    return DatasetSummary(
        digest=mixture.digest,
        train_sizes={size: _number(count) for size, count in sorted(sizes.items())},
        train_images=len({pick.row.image for pick in mixture.train}),
        held_out_images=len({row.image for row in mixture.held_out}),
        kept_out_images=mixture.kept_out,
    )


def exactly(weight: float) -> Fraction:
    """The decimal number a weight was written as: 0.1 is a tenth."""
    return Fraction(repr(weight))


def _refuse_unknown(weights: Mapping[str, float], concepts: Set[str]) -> None:
    there = f"there are: {', '.join(sorted(concepts))}" if concepts else "no image has a concept"
    errors = [
        FieldError(pointer="/data/concept_weights", message=f"no image is trained on under '{name}'; {there}")
        for name in weights
        if name not in concepts
    ]
    if errors:
        raise InvalidInput(errors, message="The recipe does not fit the data.", hint="Correct the names of concepts.")


def _measured(sources: Sequence[Source]) -> tuple[VersionRow, ...]:
    """Held-out rows; what a version before holds out with the same caption is not measured again."""
    seen: set[tuple[str, str]] = set()
    found: list[VersionRow] = []
    for source in sources:
        rows = [row for row in source.rows if row.split is Split.HELD_OUT and (row.image, row.caption) not in seen]
        found += rows
        seen |= {(row.image, row.caption) for row in rows}
    return tuple(in_canonical_order(found))


def _samples(picks: Sequence[Pick]) -> Samples:
    alike: dict[Fraction, int] = {}
    for _, rate in picks:
        alike[rate] = alike.get(rate, 0) + 1
    placed = dict.fromkeys(alike, 0)
    rows: list[VersionRow] = []
    sometimes: dict[int, Sometimes] = {}
    for row, rate in picks:
        whole = math.floor(rate)
        rows += [row] * whole
        if rate > whole:
            # Rows of one rate begin evenly apart, so that each epoch has as many of them as another, give or take one.
            sometimes[len(rows)] = Sometimes(rate - whole, Fraction(placed[rate], alike[rate]))
            rows.append(row)
        placed[rate] += 1
    return Samples(tuple(rows), sometimes)


def _number(count: Fraction) -> int | float:
    return count.numerator if count.denominator == 1 else float(count)
