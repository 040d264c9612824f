"""Files of one name in several uploads: which captions and masks are for which pictures."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from catalog.datasets import ingest, service
from catalog.datasets.arrivals import NONE_OF_ITS_OWN, UNCLEAR
from catalog.datasets.doubts import find_doubts
from catalog.datasets.models import DatasetFile
from catalog.jobs import Queue
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import FileKind
from tests.catalog.conftest import OWNER, Make, decoded

CATS = {"0.png": "CAT", "0.txt": "a cat"}
DOGS = {"0.png": "DOG", "0.txt": "a dog"}
DAMAGED = ""


class Folders:
    """A dataset folders are uploaded to; a file is its name and what is to be seen, or read, in it."""

    def __init__(self, make: Make) -> None:
        self.database, self.make = make.database, make
        self.id = make.dataset(images=0)

    def upload(self, *folders: Mapping[str, str]) -> None:
        """One after another, all before a worker looks."""
        files = [file for folder in folders for file in folder.items()]
        with self.database.session() as session:
            rows = [service.offer_upload(session, OWNER, self.id, name, "u/x", 9).id for name, _ in files]
        content = dict(zip(rows, (said for _, said in files), strict=True))
        claim = self.make.claim(Queue.LIGHT)
        with self.database.session() as session:
            for row in ingest.pending_files(session, claim):
                said = content[row.id]
                if said == DAMAGED:
                    ingest.reject(session, claim, row.id, "damaged")
                elif row.kind == FileKind.CAPTION:
                    ingest.record_caption(session, claim, row.id, said)
                elif row.kind == FileKind.MASK:
                    ingest.record_mask(session, claim, row.id, decoded(said))
                else:
                    ingest.record_image(session, claim, row.id, decoded(said))
            ingest.finish(session, claim)

    def captions(self) -> dict[str, str | None]:
        with self.database.reading() as session:
            images = service.repository.images(session, OWNER, self.id)
            named = {decoded(name).identity: name for name in ("CAT", "DOG", "BIRD")}
            return {named[image.image]: image.caption for image in images}

    def masks(self) -> dict[str, str | None]:
        with self.database.reading() as session:
            images = service.repository.images(session, OWNER, self.id)
            named = {decoded(name).identity: name for name in ("CAT", "DOG", "BIRD", "cat's", "dog's")}
            return {named[image.image]: named[image.mask] if image.mask else None for image in images}

    def newest(self, name: str) -> DatasetFile:
        with self.database.reading() as session:
            return [row for row in service.ledger(session, OWNER, self.id) if row.filename == name][-1]

    def doubts(self) -> list[tuple[str, list[str]]]:
        with self.database.reading() as session:
            return [(doubt.message, list(doubt.names)) for doubt in find_doubts(session, OWNER, self.id)]


@pytest.fixture
def folders(make: Make) -> Folders:
    return Folders(make)


class TestCaptions:
    def test_of_a_second_folder_are_for_its_own_pictures(self, folders: Folders) -> None:
        folders.upload(CATS)
        folders.upload(DOGS)
        assert folders.captions() == {"CAT": "a cat", "DOG": "a dog"}
        assert folders.doubts() == []

    def test_are_told_apart_also_when_both_folders_are_read_at_once(self, folders: Folders) -> None:
        folders.upload(dict(reversed(CATS.items())), dict(reversed(DOGS.items())))
        assert folders.captions() == {"CAT": "a cat", "DOG": "a dog"}

    def test_that_come_later_or_again_replace_those_of_their_picture(self, folders: Folders) -> None:
        folders.upload(CATS)
        folders.upload({"0.txt": "a red cat"})
        assert folders.captions() == {"CAT": "a red cat"}
        folders.upload(DOGS)
        folders.upload({"0.png": "CAT", "0.txt": "an old cat"})
        assert folders.captions() == {"CAT": "an old cat", "DOG": "a dog"}
        assert folders.doubts() == []

    def test_that_may_be_for_pictures_of_two_folders_are_for_neither_and_stop_the_freeze(
        self, folders: Folders
    ) -> None:
        folders.upload(CATS)
        folders.upload(DOGS)
        folders.upload({"0.txt": "a red cat"})
        assert folders.captions() == {"CAT": "a cat", "DOG": "a dog"}
        row = folders.newest("0.txt")
        assert (row.fate, row.image) == (Fate.REJECTED, None)
        assert row.reason is not None
        assert row.reason.startswith(f"{UNCLEAR}: different ones called 0.png")
        ((message, names),) = folders.doubts()
        assert "different pictures of one name" in message
        assert names == ["0.txt"]
        with folders.database.session() as session, pytest.raises(PatinaError) as caught:
            service.freeze(session, OWNER, folders.id)
        assert caught.value.code is FailureCode.DOUBTFUL_DATASET

    def test_are_for_no_picture_of_a_folder_without_captions(self, folders: Folders) -> None:
        folders.upload(CATS)
        folders.upload({"0.png": "DOG"})
        assert folders.captions() == {"CAT": "a cat", "DOG": None}
        assert folders.newest("0.png").reason == NONE_OF_ITS_OWN
        assert [names for message, names in folders.doubts() if "other uploads' pictures" in message] == [["0.png"]]

    def test_of_a_picture_that_could_not_be_read_wait_for_it(self, folders: Folders) -> None:
        folders.upload(CATS)
        folders.upload({"0.png": DAMAGED, "0.txt": "a dog"})
        assert folders.captions() == {"CAT": "a cat"}
        folders.upload({"0.png": "DOG"})
        assert folders.captions() == {"CAT": "a cat", "DOG": "a dog"}

    def test_that_come_before_their_picture_wait_for_it(self, folders: Folders) -> None:
        folders.upload({"0.txt": "a cat"})
        folders.upload({"0.png": "CAT"})
        folders.upload(DOGS)
        assert folders.captions() == {"CAT": "a cat", "DOG": "a dog"}


class TestMasks:
    def test_of_a_second_folder_are_for_its_own_pictures(self, folders: Folders) -> None:
        folders.upload({"0.png": "CAT", "0_mask.png": "cat's"})
        folders.upload({"0.png": "DOG", "0_mask.png": "dog's"})
        assert folders.masks() == {"CAT": "cat's", "DOG": "dog's"}

    def test_that_may_be_for_pictures_of_two_folders_are_for_neither(self, folders: Folders) -> None:
        folders.upload({"0.png": "CAT"})
        folders.upload({"0.png": "DOG"})
        folders.upload({"0_mask.png": "cat's"})
        assert folders.masks() == {"CAT": None, "DOG": None}
        assert [names for message, names in folders.doubts() if "one name" in message] == [["0_mask.png"]]
