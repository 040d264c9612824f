"""Which images look alike: the hash and the comparison."""

from __future__ import annotations

import random

import pytest

from catalog.datasets.likeness import nearest, nearest_of
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

    @pytest.mark.parametrize("seed", range(8))
    def test_it_is_what_comparing_every_pair_gives(self, seed: int) -> None:
        draw = random.Random(seed)
        scenes = [draw.getrandbits(LIKENESS_BITS) for _ in range(6)]
        hashes = {f"{draw.getrandbits(64):016x}": draw.choice(scenes) for _ in range(80)}
        for name in hashes:
            for _ in range(draw.randint(0, NEAR_BITS + 2)):
                hashes[name] ^= 1 << draw.randrange(LIKENESS_BITS)
        wanted = {}
        for name, bits in hashes.items():
            others = [((bits ^ hashes[other]).bit_count(), other) for other in sorted(hashes) if other != name]
            if min(others)[0] <= NEAR_BITS:
                wanted[name] = min(others)[1]
        written = {name: f"{bits:032x}" for name, bits in hashes.items()}
        assert nearest(written) == wanted
        some = sorted(hashes)[::7]
        assert nearest_of(some, written) == {name: wanted[name] for name in some if name in wanted}

    def test_one_image_has_no_like(self) -> None:
        assert nearest({"a": "0" * 32}) == {}
        assert nearest({}) == nearest_of([], {}) == nearest_of(["a"], {"a": "0" * 32}) == {}
