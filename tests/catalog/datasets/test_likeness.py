"""Which images look alike: the hash and the comparison."""

from __future__ import annotations

import random

from catalog.datasets.likeness import nearest
from contracts.likeness import GRID_PX, LIKENESS_BITS, NEAR_BITS, difference_hash


def flipped(likeness: str, bits: int) -> str:
    return f"{int(likeness, 16) ^ ((1 << bits) - 1):0{LIKENESS_BITS // 4}x}"


class TestHash:
    def test_brightness_does_not_count_but_direction_does(self) -> None:
        rising = bytes(range(GRID_PX**2))
        assert difference_hash(rising) == difference_hash(bytes(value + 40 for value in rising))
        assert int(difference_hash(rising), 16).bit_count() == LIKENESS_BITS
        assert int(difference_hash(rising[::-1]), 16) == 0


class TestNearest:
    def test_images_within_the_bound_find_each_other_and_no_one_else(self) -> None:
        draw = random.Random(7)
        hashes = {f"{n}": f"{draw.getrandbits(LIKENESS_BITS):032x}" for n in range(600)}
        hashes["near"] = flipped(hashes["300"], NEAR_BITS)
        hashes["far"] = flipped(hashes["301"], NEAR_BITS + 1)
        assert nearest(hashes) == {"near": "300", "300": "near"}

    def test_one_image_has_no_like(self) -> None:
        assert nearest({"a": "0" * 32}) == {}
        assert nearest({}) == {}
