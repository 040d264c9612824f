"""Buckets and the schedule: no picture is stretched, none is dropped, and any way of slicing a step sees the same."""

from __future__ import annotations

import pytest

from contracts.buckets import Bucket, Schedule, bucket_table, micro_batches, place

WIDE, SQUARE = Bucket(80, 48), Bucket(64, 64)


class TestBucketTable:
    @pytest.mark.parametrize(("side", "step", "aspect"), [(64, 8, 3.0), (1024, 64, 2.0), (1024, 64, 1.0)])
    def test_has_no_bucket_above_the_area_off_the_grid_or_too_long(self, side: int, step: int, aspect: float) -> None:
        table = bucket_table(side, step, aspect)
        assert table
        for width, height in table:
            assert width * height <= side * side
            assert width % step == height % step == 0
            assert max(width, height) / min(width, height) <= aspect
            assert Bucket(height, width) in table

    def test_has_the_square_and_sdxls_own_shapes(self) -> None:
        assert {(1024, 1024), (1152, 896), (1216, 832), (1344, 768)} <= set(bucket_table(1024, 64, 3.0))

    def test_is_one_square_when_the_grid_has_nothing_short_enough(self) -> None:
        assert bucket_table(50, 64, 3.0) == (Bucket(48, 48),)
        assert bucket_table(100, 64, 1.0) == (Bucket(96, 96),)


class TestPlace:
    @pytest.mark.parametrize("size", [(64, 64), (200, 100), (37, 1000), (1001, 999), (16, 16)])
    def test_covers_the_bucket_and_cuts_inside_the_picture(self, size: tuple[int, int]) -> None:
        found = place(*size, bucket_table(64, 8, 3.0))
        assert found.resized_width >= found.bucket.width_px + found.crop_left
        assert found.resized_height >= found.bucket.height_px + found.crop_top
        assert min(found.resized_width - found.bucket.width_px, found.resized_height - found.bucket.height_px) <= 1
        assert (found.upscaling > 1) == (size[0] < found.bucket.width_px or size[1] < found.bucket.height_px)

    def test_takes_the_nearest_aspect(self) -> None:
        assert place(160, 96, [SQUARE, WIDE]).bucket == WIDE
        assert place(100, 99, [SQUARE, WIDE]).bucket == SQUARE


class TestSchedule:
    schedule = Schedule((SQUARE,) * 7 + (WIDE,) * 3, global_batch=4, seed=5)

    def test_an_epoch_has_every_sample_once_and_no_batch_mixes_buckets(self) -> None:
        epoch = self.schedule.epoch(0)
        assert sorted(sample for batch in epoch for sample in batch.samples) == list(range(10))
        assert len(epoch) == 3
        assert [self.schedule.locate(step) for step in (0, 2, 3, 7)] == [(0, 0), (0, 2), (1, 0), (2, 1)]
        for batch in epoch:
            assert {self.schedule.buckets[sample] for sample in batch.samples} == {batch.bucket}

    def test_is_the_same_each_time_and_another_in_each_epoch(self) -> None:
        assert self.schedule.epoch(1) == self.schedule.epoch(1)
        assert self.schedule.epoch(1) != self.schedule.epoch(2)


class TestMicroBatches:
    @pytest.mark.parametrize("count", range(1, 9))
    def test_every_sample_is_in_one_slice_whatever_the_ranks(self, count: int) -> None:
        samples = range(count)
        for processes, accumulation in ((1, 4), (2, 2), (4, 1)):
            ranks = [micro_batches(samples, processes, rank, accumulation) for rank in range(processes)]
            in_order = [ranks[rank][micro] for micro in range(accumulation) for rank in range(processes)]
            assert [sample for part in in_order for sample in part] == list(samples)
            assert in_order == micro_batches(samples, 1, 0, 4)

    @pytest.mark.parametrize("processes", range(1, 9))
    def test_no_image_is_dropped_by_any_number_of_ranks(self, processes: int) -> None:
        """Seven images with batches of two, for one: on eight ranks one of the slices is empty."""
        schedule = Schedule((SQUARE,) * 7, global_batch=2 * processes, seed=5)
        for epoch in range(3):
            slices = [
                part
                for batch in schedule.epoch(epoch)
                for rank in range(processes)
                for part in micro_batches(batch.samples, processes, rank, accumulation=1)
            ]
            assert sorted(sample for part in slices for sample in part) == list(range(7))
            assert all(len(part) <= 2 for part in slices)
