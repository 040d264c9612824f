"""What makes two pictures look alike: a difference hash over a tiny grey copy. Pure arithmetic.

Each of 8x8 places says whether the grey grows to the right, and whether it grows downwards: 128 bits that survive
resizing and re-encoding. Knows nothing about how the copy is made.
"""

from __future__ import annotations

GRID_PX = 9
"""Side of the grey copy."""
LIKENESS_BITS = 128
NEAR_BITS = 6
"""Pictures whose hashes differ in at most this many bits are shown as near-duplicates."""


def difference_hash(grey: bytes) -> str:
    """The hash of a ``GRID_PX`` x ``GRID_PX`` grey picture, row by row, in hexadecimal.

    Raises:
        ValueError: it is of another size.
    """
    if len(grey) != GRID_PX**2:
        raise ValueError(f"{GRID_PX}x{GRID_PX} grey needs {GRID_PX**2} bytes, got {len(grey)}")
    bits = 0
    for step in (1, GRID_PX):
        for top in range(GRID_PX - 1):
            for left in range(GRID_PX - 1):
                place = top * GRID_PX + left
                bits = bits << 1 | (grey[place + step] > grey[place])
    return f"{bits:0{LIKENESS_BITS // 4}x}"
