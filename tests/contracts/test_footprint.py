from __future__ import annotations

from contracts.footprint import Footprint, Moment, Work


class TestFootprint:
    def test_the_peak_is_another_moment_at_another_size(self) -> None:
        small = Moment(numbers=(1000, 0, 0, 0, 0, 0), bytes=(0,) * 6)
        large = Moment(numbers=(0, 0, 0, 0, 10, 0), bytes=(0, 0, 8, 0, 0, 0))
        both = Footprint(moments=(small, large))
        assert both.peak_bytes(Work(images=1, positions=4, bytes_each=2)) == 2000
        assert both.peak_bytes(Work(images=4, positions=64, bytes_each=2)) == 2 * 10 * 256 + 4 * 8

    def test_numbers_take_the_compute_type_and_bytes_stay(self) -> None:
        one = Footprint(moments=(Moment(numbers=(0, 0, 0, 0, 1, 1), bytes=(0, 0, 0, 0, 0, 4)),))
        half, whole = (Work(images=2, positions=3, rank=5, bytes_each=each) for each in (2, 4))
        assert one.peak_bytes(half) == 6 * 2 + 30 * 2 + 30 * 4
        assert one.peak_bytes(whole) == 6 * 4 + 30 * 4 + 30 * 4

    def test_adapters_in_the_compute_type_are_no_copies(self) -> None:
        cast = Footprint(moments=(Moment(numbers=(0, 7, 0, 0, 0, 0), bytes=(0,) * 6),))
        assert cast.peak_bytes(Work(images=1, positions=1, rank=2, bytes_each=2)) == 28
        assert cast.peak_bytes(Work(images=1, positions=1, rank=2, bytes_each=4)) == 0
