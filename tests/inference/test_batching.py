from __future__ import annotations

from contracts.base import Denoising
from inference.batching import Item, Shape, group

SMALL = Shape(64, 64, 4, True, None, Denoising("epsilon"))
WIDE = SMALL._replace(width=96)


class TestGroup:
    def test_every_picture_is_made_once_in_batches_of_one_shape(self):
        found = group([SMALL, WIDE, SMALL], [3, 1, 2], max_pictures=4)
        assert found == [
            [Item(0, 0), Item(0, 1), Item(0, 2), Item(2, 0)],
            [Item(2, 1)],
            [Item(1, 0)],
        ]

    def test_what_changes_the_arithmetic_is_kept_apart(self):
        shapes = [
            SMALL,
            SMALL._replace(height=96),
            SMALL._replace(steps=5),
            SMALL._replace(guided=False),
            SMALL._replace(full_weights="x"),
            SMALL._replace(denoising=Denoising("v_prediction")),
            SMALL._replace(denoising=Denoising("v_prediction", True)),
        ]
        assert [len(batch) for batch in group(shapes, [1] * 7, max_pictures=8)] == [1] * 7

    def test_nothing_asked_gives_nothing(self):
        assert group([], [], max_pictures=4) == []
