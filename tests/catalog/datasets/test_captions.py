"""Names, and matching captions to images by them."""

from __future__ import annotations

import pytest

from catalog.datasets.captions import CaptionFile, ImageFile, Naming, beside, pair, stem, tidy_name
from contracts.dataset import Fate

LOOSE = 0
ARCHIVE = 7


def _image(file_id: int, name: str, image: str, scope: int = LOOSE) -> ImageFile:
    return ImageFile(file_id, scope, name, image)


def _sidecar(file_id: int, name: str, text: str, scope: int = LOOSE) -> CaptionFile:
    return CaptionFile(file_id, scope, name, stem(name), Naming.SIDECAR, text)


def _key(file_id: int, target: str, text: str) -> CaptionFile:
    return CaptionFile(file_id, LOOSE, f"meta_cap.json:{file_id}", target, Naming.KEY, text)


def _line(file_id: int, target: str, text: str, scope: int = LOOSE) -> CaptionFile:
    return CaptionFile(file_id, scope, f"metadata.jsonl:{file_id}", target, Naming.LINE, text)


class TestTidyName:
    @pytest.mark.parametrize(
        ("given", "tidy"),
        [
            ("../../a.png", "a.png"),
            ("/etc/a.png", "etc/a.png"),
            ("c:\\pictures\\a.png", "c:/pictures/a.png"),
            ("./x//a.png", "x/a.png"),
            ("..", ""),
            ("e\u0301.png", "\u00e9.png"),
            ("\U0001f469\u200d\U0001f4bb.png", "\U0001f469\U0001f4bb.png"),
            ("a\x00b\ud800.png", "ab.png"),
        ],
    )
    def test_is_plain_and_relative(self, given: str, tidy: str) -> None:
        assert tidy_name(given) == tidy

    def test_is_cut_at_the_front(self) -> None:
        assert len(tidy_name("a" * 9000 + ".png")) == 400
        assert tidy_name("a" * 9000 + ".png").endswith(".png")


class TestPair:
    def test_a_sidecar_belongs_to_the_image_of_its_name(self) -> None:
        pairing = pair([_image(1, "a/cat.png", "CAT")], [_sidecar(2, "a/cat.txt", "a cat")])
        assert (pairing.captions["CAT"].text, pairing.captions["CAT"].source) == ("a cat", "a/cat.txt")
        assert pairing.fates == {2: (Fate.USED, None, "CAT")}

    def test_one_that_is_replaced_for_one_of_its_images_serves_the_other(self) -> None:
        images = [_image(1, "cat.png", "CAT"), _image(2, "cat.jpg", "OTHER")]
        pairing = pair(images, [_sidecar(3, "cat.txt", "a cat"), _line(4, "cat.jpg", "another")])
        assert {image: chosen.text for image, chosen in pairing.captions.items()} == {
            "CAT": "a cat",
            "OTHER": "another",
        }
        assert {row: fate for row, (fate, *_) in pairing.fates.items()} == {3: Fate.USED, 4: Fate.USED}

    def test_names_in_other_folders_and_archives_are_other_names(self) -> None:
        images = [_image(1, "a/cat.png", "CAT"), _image(2, "cat.png", "DOG", ARCHIVE)]
        pairing = pair(images, [_sidecar(3, "cat.txt", "a cat"), _sidecar(4, "a/cat.txt", "a cat", ARCHIVE)])
        assert pairing.captions == {}
        assert [fate for fate, _, _ in pairing.fates.values()] == [Fate.REJECTED, Fate.REJECTED]

    def test_a_line_names_its_file_with_the_extension(self) -> None:
        images = [_image(1, "cat.png", "CAT"), _image(2, "cat.jpg", "DOG")]
        pairing = pair(images, [_line(3, "cat.jpg", "a dog")])
        assert {image: chosen.text for image, chosen in pairing.captions.items()} == {"DOG": "a dog"}

    def test_the_newest_caption_wins_and_the_older_says_why_not(self) -> None:
        captions = [_sidecar(2, "cat.txt", "a cat"), _line(3, "cat.png", "a red cat")]
        pairing = pair([_image(1, "cat.png", "CAT")], captions)
        assert pairing.captions["CAT"].text == "a red cat"
        assert pairing.fates[2] == (Fate.DUPLICATE, "replaced by metadata.jsonl:3", "CAT")

    def test_a_duplicate_picture_may_bring_the_caption(self) -> None:
        images = [_image(1, "cat.png", "CAT"), _image(2, "copy.png", "CAT")]
        pairing = pair(images, [_sidecar(3, "copy.txt", "a cat")])
        assert pairing.captions["CAT"].text == "a cat"

    def test_the_same_words_twice_are_called_so(self) -> None:
        images = [_image(1, "cat.png", "CAT"), _image(2, "copy.png", "CAT")]
        pairing = pair(images, [_sidecar(3, "cat.txt", "a cat"), _sidecar(4, "copy.txt", "a cat")])
        assert pairing.fates[3] == (Fate.DUPLICATE, "says the same as copy.txt", "CAT")

    def test_a_caption_without_image_names_what_it_looked_for(self) -> None:
        pairing = pair([], [_sidecar(3, "cat.txt", "a cat")])
        assert pairing.fates[3] == (Fate.REJECTED, "there is no usable image named cat", None)


class TestNames:
    def test_only_the_last_extension_is_one(self) -> None:
        assert stem("a.b/cat.v2.png") == "a.b/cat.v2"
        assert stem("cat") == "cat"

    def test_a_metadata_file_names_what_lies_beside_it(self) -> None:
        assert beside("train/metadata.jsonl", "images/cat.png") == "train/images/cat.png"
        assert beside("metadata.jsonl", "./cat.png") == "cat.png"


class TestNaming:
    def test_a_line_at_the_top_finds_the_only_file_of_that_name_below(self) -> None:
        pairing = pair([_image(1, "train/cat.png", "CAT")], [_line(2, "cat.png", "a cat")])
        assert pairing.captions["CAT"].text == "a cat"

    def test_a_line_does_not_guess_between_two_files_of_that_name(self) -> None:
        images = [_image(1, "train/cat.png", "CAT"), _image(2, "test/cat.png", "DOG")]
        assert pair(images, [_line(3, "cat.png", "a cat")]).captions == {}

    def test_a_line_finds_the_only_file_of_its_upload_whatever_others_bring(self) -> None:
        images = [_image(1, "train/cat.png", "CAT"), _image(2, "more/cat.png", "DOG")._replace(upload=1)]
        assert pair(images, [_line(3, "cat.png", "a cat")]).captions["CAT"].text == "a cat"

    def test_a_line_looks_only_below_its_own_folder(self) -> None:
        line = CaptionFile(2, LOOSE, "test/metadata.jsonl:1", "test/cat.png", Naming.LINE, "a cat", "test")
        assert pair([_image(1, "train/cat.png", "CAT")], [line]).captions == {}

    def test_a_line_for_a_file_that_could_not_be_read_is_for_no_other_file(self) -> None:
        images = [ImageFile(1, LOOSE, "cat.png", None), _image(2, "more/cat.png", "DOG")]
        pairing = pair(images, [_line(3, "cat.png", "a cat")])
        assert pairing.captions == {}
        assert pairing.fates[3][0] is Fate.REJECTED

    @pytest.mark.parametrize("key", ["img/cat.png", "img/cat", "cat", "cat.png", "home/me/sets/img/cat.png"])
    def test_a_key_names_a_file_with_or_without_folder_and_extension(self, key: str) -> None:
        images = [_image(1, "img/cat.png", "CAT"), _image(2, "img/dog.png", "DOG")]
        assert list(pair(images, [_key(3, key, "a cat")]).captions) == ["CAT"]

    def test_a_key_that_may_mean_two_files_means_none(self) -> None:
        images = [_image(1, "a/cat.png", "CAT"), _image(2, "b/cat.png", "DOG")]
        assert pair(images, [_key(3, "cat", "a cat")]).captions == {}

    def test_a_line_whose_file_is_not_there_is_for_no_file_in_another_folder(self) -> None:
        lines = [_line(3, "cats/001.jpg", "a cat"), _line(4, "dogs/001.jpg", "a dog")]
        pairing = pair([_image(1, "cats/001.jpg", "CAT")], lines)
        assert pairing.captions["CAT"].text == "a cat"
        assert pairing.fates[4] == (Fate.REJECTED, "there is no usable image named dogs/001.jpg", None)
        assert pair([_image(1, "cats/001.jpg", "CAT")], [_key(4, "dogs/001", "a dog")]).captions == {}

    def test_a_file_that_differs_in_case_alone_is_meant(self) -> None:
        images = [_image(1, "cats/001.jpg", "CAT"), _image(2, "dogs/001.JPG", "DOG")]
        lines = [_line(3, "cats/001.jpg", "a cat"), _line(4, "dogs/001.jpg", "a dog")]
        for captions in (lines, [_key(3, "cats/001", "a cat"), _key(4, "Dogs/001", "a dog")]):
            texts = {image: chosen.text for image, chosen in pair(images, captions).captions.items()}
            assert texts == {"CAT": "a cat", "DOG": "a dog"}

    def test_case_is_no_guess_between_two_files(self) -> None:
        images = [_image(1, "a.jpg", "CAT"), _image(2, "A.JPG", "DOG")]
        assert pair(images, [_line(3, "A.jpg", "a cat")]).captions == {}

    def test_a_file_that_a_line_names_exactly_is_for_no_line_that_may_mean_it(self) -> None:
        images = [_image(1, "001.jpg", "CAT")]
        pairing = pair(images, [_line(3, "001.jpg", "a cat"), _line(4, "dogs/001.jpg", "a dog")])
        assert pairing.captions["CAT"].text == "a cat"
        assert pairing.fates[4][0] is Fate.REJECTED

    def test_a_line_with_folders_finds_the_end_of_a_path_and_a_path_its_end(self) -> None:
        for name in ("sets/pets/cats/001.jpg", "cats/001.jpg", "001.jpg"):
            assert list(pair([_image(1, name, "CAT")], [_line(2, "pets/cats/001.jpg", "a cat")]).captions) == ["CAT"]
