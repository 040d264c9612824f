"""What a version is made of."""

from __future__ import annotations

import hashlib

from catalog.datasets.versions import VersionImage, assemble, held_out
from contracts.dataset import Split, VersionRow


def _images(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(count)]


class TestHeldOut:
    def test_takes_about_the_share_that_was_asked_for(self) -> None:
        assert 60 < len(held_out(_images(1000), 0.1)) < 140

    def test_an_image_stays_where_it_is_when_the_dataset_grows(self) -> None:
        images = _images(300)
        small, large = held_out(images[:150], 0.2), held_out(images, 0.2)
        assert small == large & set(images[:150])

    def test_a_share_of_nothing_holds_out_nothing(self) -> None:
        assert held_out(_images(100), 0.0) == frozenset()

    def test_a_small_set_holds_out_one_and_keeps_one(self) -> None:
        assert len(held_out(_images(3), 0.000001)) == 1
        assert len(held_out(_images(2), 1.0)) == 1
        assert held_out(_images(1), 0.5) == frozenset()

    def test_does_not_depend_on_the_order(self) -> None:
        images = _images(50)
        assert held_out(images, 0.2) == held_out(reversed(images), 0.2)


class TestAssemble:
    def test_puts_images_in_canonical_order_each_in_its_split(self) -> None:
        entries = [
            VersionImage(VersionRow(image=image, original_width=8, original_height=8, source_name="x"), f"k/{image}")
            for image in _images(40)
        ]
        contents = assemble(entries, 0.2)
        assert [entry.row.image for entry in contents] == sorted(_images(40))
        assert all(entry.blob_key == f"k/{entry.row.image}" for entry in contents)
        kept_out = {entry.row.image for entry in contents if entry.row.split is Split.HELD_OUT}
        assert kept_out == held_out(_images(40), 0.2)
        assert kept_out
