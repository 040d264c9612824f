"""Which images of a dataset look much like another one: pure comparison of their hashes (contracts/likeness.py).

Every pair is compared, 128 bits at a time: 10 000 images take well under a second. Knows nothing about SQL.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from contracts.likeness import LIKENESS_BITS, NEAR_BITS

ROWS_AT_ONCE = 256


def nearest(hashes: Mapping[str, str]) -> dict[str, str]:
    """Image -> the one most like it, for the images that have one within ``NEAR_BITS``."""
    if len(hashes) < 2:
        return {}
    names = sorted(hashes)
    raw = b"".join(bytes.fromhex(hashes[name]) for name in names)
    words = np.frombuffer(raw, dtype=np.uint64).reshape(len(names), LIKENESS_BITS // 64)
    found = {}
    for start in range(0, len(names), ROWS_AT_ONCE):
        part = words[start : start + ROWS_AT_ONCE]
        distances = np.zeros((len(part), len(names)), dtype=np.uint8)
        for word in range(words.shape[1]):
            distances += np.bitwise_count(part[:, word, None] ^ words[None, :, word])
        distances[np.arange(len(part)), start + np.arange(len(part))] = np.iinfo(np.uint8).max
        closest = distances.argmin(axis=1)
        for row, other in enumerate(closest):
            if distances[row, other] <= NEAR_BITS:
                found[names[start + row]] = names[int(other)]
    return found
