"""Matching masks to images by their names."""

from __future__ import annotations

from catalog.datasets.masks import Masked, MaskFile, match_masks
from contracts.dataset import Fate

SQUARE, WIDE = (64, 64), (128, 64)


def _mask(file_id: int, target: str, size: tuple[int, int] = SQUARE, scope: int = 0) -> MaskFile:
    return MaskFile(file_id, scope, f"{target}_mask.png", target, size)


class TestMatchMasks:
    def test_a_mask_belongs_to_the_image_of_its_name_in_its_folder_and_archive(self) -> None:
        images = [Masked(0, 0, "a/cat.jpg", "CAT", SQUARE), Masked(0, 0, "cat.jpg", "DOG", SQUARE)]
        found = match_masks(images, [_mask(3, "a/cat"), _mask(4, "cat", scope=9)])
        assert found.masks == {"CAT": 3}
        assert found.fates[3] == (Fate.USED, None)
        assert found.fates[4][0] is Fate.REJECTED

    def test_one_without_a_picture_says_what_to_do(self) -> None:
        fate, reason = match_masks([], [_mask(1, "carnival")]).fates[1]
        assert fate is Fate.REJECTED
        assert "no usable image named carnival" in str(reason)
        assert "rename it" in str(reason)

    def test_one_of_another_size_is_refused_with_both_sizes(self) -> None:
        fate, reason = match_masks([Masked(0, 0, "cat.png", "CAT", WIDE)], [_mask(1, "cat")]).fates[1]
        assert fate is Fate.REJECTED
        assert "64x64" in str(reason)
        assert "128x64" in str(reason)

    def test_the_newest_wins_and_the_older_says_why_not(self) -> None:
        found = match_masks([Masked(0, 0, "cat.png", "CAT", SQUARE)], [_mask(1, "cat"), _mask(2, "cat")])
        assert found.masks == {"CAT": 2}
        assert found.fates[1] == (Fate.DUPLICATE, "replaced by cat_mask.png")

    def test_one_that_is_replaced_for_one_of_its_images_serves_the_other(self) -> None:
        images = [
            Masked(0, 0, name, image, SQUARE) for name, image in (("a.png", "CAT"), ("a.jpg", "DOG"), ("b.png", "CAT"))
        ]
        found = match_masks(images, [_mask(1, "a"), _mask(2, "b")])
        assert found.masks == {"CAT": 2, "DOG": 1}
        assert {mask: fate for mask, (fate, _) in found.fates.items()} == {1: Fate.USED, 2: Fate.USED}

    def test_an_alpha_channel_masks_its_own_image_alone_and_any_file_beside_it_goes_before(self) -> None:
        images = [
            Masked(0, 0, "cat.png", "CAT", SQUARE),
            Masked(0, 0, "cat.jpg", "DOG", SQUARE),
            Masked(0, 0, "b.png", "B", WIDE),
        ]
        alpha, other = (
            MaskFile(8, 1, "cat.png:alpha", "cat", SQUARE, "CAT"),
            MaskFile(9, 3, "b.png:alpha", "b", WIDE, "B"),
        )
        found = match_masks(images, [alpha, other])
        assert found.masks == {"CAT": 8, "B": 9}
        found = match_masks(images, [_mask(5, "cat"), alpha, other])
        assert found.masks == {"CAT": 5, "DOG": 5, "B": 9}
        assert found.fates[8] == (Fate.DUPLICATE, "replaced by cat_mask.png")
