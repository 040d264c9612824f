"""What names a data set's content, and which of it is never trained on."""

from __future__ import annotations

import hashlib

import pytest

from contracts.dataset import (
    Split,
    VersionRow,
    choose_held_out,
    image_identity,
    in_canonical_order,
    summarise,
    version_digest,
)


def _images(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(count)]


def _row(image: str, **changes: object) -> VersionRow:
    settings = {"image": image, "original_width": 64, "original_height": 48, "source_name": "x.png"} | changes
    return VersionRow.model_validate(settings)


class TestChooseHeldOut:
    def test_takes_about_the_share_that_was_asked_for(self) -> None:
        assert 60 < len(choose_held_out(_images(1000), 0.1)) < 140

    def test_an_image_stays_where_it_is_when_the_dataset_grows(self) -> None:
        images = _images(300)
        small, large = choose_held_out(images[:150], 0.2), choose_held_out(images, 0.2)
        assert small == large & set(images[:150])

    def test_a_share_of_nothing_holds_out_nothing(self) -> None:
        assert choose_held_out(_images(100), 0.0) == frozenset()

    def test_a_small_set_holds_out_one_and_keeps_one(self) -> None:
        assert len(choose_held_out(_images(3), 0.000001)) == 1
        assert len(choose_held_out(_images(2), 1.0)) == 1
        assert choose_held_out(_images(1), 0.5) == frozenset()

    def test_does_not_depend_on_the_order(self) -> None:
        images = _images(50)
        assert choose_held_out(images, 0.2) == choose_held_out(reversed(images), 0.2)


class TestImageIdentity:
    def test_tells_sizes_of_the_same_bytes_apart(self) -> None:
        assert image_identity(2, 1, bytes(6)) != image_identity(1, 2, bytes(6))

    def test_refuses_bytes_that_are_no_picture_of_that_size(self) -> None:
        with pytest.raises(ValueError, match="needs 6 bytes, got 5"):
            image_identity(2, 1, bytes(5))


class TestVersionDigest:
    def test_is_of_the_content_in_any_order_and_under_any_name(self) -> None:
        rows = [_row(image) for image in _images(5)]
        renamed = [row.model_copy(update={"source_name": "y.png"}) for row in reversed(rows)]
        assert version_digest(rows) == version_digest(renamed)
        assert in_canonical_order(reversed(rows)) == in_canonical_order(rows)

    @pytest.mark.parametrize(
        "change", [{"caption": "b"}, {"split": Split.HELD_OUT}, {"repeats": 2}, {"concept": "c"}, {"mask": "m"}]
    )
    def test_changes_with_anything_that_is_trained_on(self, change: dict[str, object]) -> None:
        assert version_digest([_row("a")]) != version_digest([_row("a", **change)])


class TestSummarise:
    def test_counts_repeats_in_the_sizes_and_leaves_out_what_is_held_out(self) -> None:
        found = summarise([_row("a", repeats=3), _row("b", original_width=48), _row("c", split=Split.HELD_OUT)])
        assert found.train_sizes == {"48x48": 1, "64x48": 3}
        assert (found.train_images, found.held_out_images) == (2, 1)
