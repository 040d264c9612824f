"""Which images of a dataset look much like another one: pure comparison of their hashes (contracts/likeness.py).

Two hashes that differ in at most ``NEAR_BITS`` bits agree in at least one of ``NEAR_BITS`` + 1 groups of bits, so only
images that agree in one are compared (multi-index hashing: Norouzi, Punjani and Fleet 2012, arXiv:1307.2982): nearly
linear in the number of images. Knows nothing about SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from contracts.likeness import LIKENESS_BITS, NEAR_BITS

ROWS_AT_ONCE = 256
WORDS = LIKENESS_BITS // 64

Words = NDArray[np.uint64]
"""Hashes, a row of ``WORDS`` words each."""
Places = NDArray[np.int64]
"""Places of hashes among all of them."""


def nearest(hashes: Mapping[str, str]) -> dict[str, str]:
    """Image -> the one most like it, for those that have one within ``NEAR_BITS``; of several the first by name."""
    if len(hashes) < 2:
        return {}
    names = sorted(hashes)
    different, first, which = np.unique(_words(names, hashes), axis=0, return_index=True, return_inverse=True)
    found = _equal_ones(names, first, which.reshape(-1))
    groups = list(_groups(different))
    if sum(len(group) ** 2 for group in groups) > len(different) ** 2:
        groups = [np.arange(len(different))]  # so much alike that every pair is less work
    for place, other in _closest(different, first, ((group, group) for group in groups)).items():
        found.setdefault(names[int(first[place])], names[int(first[other])])
    return found


def nearest_of(some: Collection[str], hashes: Mapping[str, str]) -> dict[str, str]:
    """As ``nearest``, for some of the images alone: each of them is compared with every other."""
    if len(hashes) < 2:
        return {}
    names = sorted(hashes)
    words = _words(names, hashes)
    places = np.array([place for place, name in enumerate(names) if name in some], dtype=np.int64)
    every = np.arange(len(names))
    found = _closest(words, every, [(places, every)])
    return {names[place]: names[other] for place, other in found.items()}


def _words(names: list[str], hashes: Mapping[str, str]) -> Words:
    raw = b"".join(bytes.fromhex(hashes[name]) for name in names)
    return np.frombuffer(raw, dtype=np.uint64).reshape(len(names), WORDS)


def _equal_ones(names: list[str], first: Places, which: Places) -> dict[str, str]:
    """Images whose very hash another one has: the first of those, and for that one the second."""
    found: dict[str, str] = {}
    for place, group in enumerate(which):
        leader = int(first[group])
        if place != leader:
            found[names[place]] = names[leader]
            found.setdefault(names[leader], names[place])
    return found


def _groups(words: Words) -> Iterator[Places]:
    """Places of hashes that agree in a group of bits, for every group."""
    bits = np.unpackbits(words.view(np.uint8).reshape(len(words), -1), axis=1)
    for number in range(NEAR_BITS + 1):
        # Every seventh bit: neighbouring places of a picture are alike, and a group of them would tell little.
        packed = np.packbits(bits[:, number :: NEAR_BITS + 1], axis=1)
        keys = np.zeros(len(words), dtype=np.uint64)
        for column in packed.T:
            keys = keys << np.uint64(8) | column
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)))
        for group in np.split(order, starts[1:]):
            if len(group) > 1:
                yield group


def _closest(words: Words, rank: Places, pairs: Iterable[tuple[Places, Places]]) -> dict[int, int]:
    """Of each place the closest other one it was paired with, within ``NEAR_BITS``; of several the lowest in rank."""
    ranks = int(rank.max()) + 1
    best = np.full(len(words), (NEAR_BITS + 1) * ranks)
    for places, others in pairs:
        for start in range(0, len(places), ROWS_AT_ONCE):
            part = places[start : start + ROWS_AT_ONCE]
            distances = np.zeros((len(part), len(others)), dtype=np.uint8)
            for word in range(WORDS):
                distances += np.bitwise_count(words[part, word, None] ^ words[None, others, word])
            distances[part[:, None] == others[None, :]] = np.iinfo(np.uint8).max
            rows, columns = np.nonzero(distances <= NEAR_BITS)
            np.minimum.at(best, part[rows], distances[rows, columns] * np.int64(ranks) + rank[others[columns]])
    near = np.flatnonzero(best < (NEAR_BITS + 1) * ranks)
    place_of = {int(number): place for place, number in enumerate(rank)}
    return {int(place): place_of[int(best[place]) % ranks] for place in near}
