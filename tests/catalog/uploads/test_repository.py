"""What a dataset has of what it was sent: files that were changed, and changed back."""

from __future__ import annotations

import hashlib
from typing import Any

from catalog.datasets import ingest
from catalog.datasets import service as datasets
from catalog.datasets.ingest import Member, MetadataLine
from catalog.jobs import Queue
from catalog.uploads import service
from contracts.layouts import FileKind
from tests.catalog.conftest import OWNER, decoded


class Sent:
    """A dataset files are sent to; a file is its name and what it shows or says of ``a.png``."""

    def __init__(self, make: Any) -> None:
        self.database, self.make = make.database, make
        self.id = make.dataset(images=0)
        self.inside: dict[str, str] = {}

    def offer(self, files: dict[str, str]) -> None:
        with self.database.session() as session:
            for name, said in files.items():
                service.offer(session, OWNER, self.id, name, "u/x", 9, _sha256(said))

    def send(self, files: dict[str, str]) -> None:
        self.offer(files)
        claim = self.make.claim(Queue.LIGHT)
        with self.database.session() as session:
            while rows := ingest.pending_files(session, claim):
                for row in rows:
                    said = files.get(row.filename, self.inside.get(row.filename, ""))
                    if row.kind == FileKind.IMAGE:
                        ingest.record_image(session, claim, row.id, decoded(said))
                    elif row.kind == FileKind.MASK:
                        ingest.record_mask(session, claim, row.id, decoded(said))
                    elif row.kind == FileKind.METADATA:
                        ingest.record_metadata(session, claim, row.id, [MetadataLine(1, "a.png", said)])
                    elif row.kind == FileKind.ARCHIVE:
                        self.inside = {"a.png": "A", "a.txt": said}
                        ingest.record_members(session, claim, row.id, [Member(name, 9, "u/y") for name in self.inside])
                    else:
                        ingest.record_caption(session, claim, row.id, said)
            ingest.finish(session, claim)

    def knows(self, name: str, said: str) -> bool:
        with self.database.reading() as session:
            return service.known(session, OWNER, self.id, [(name, _sha256(said))]) == [True]

    def caption(self) -> str | None:
        with self.database.reading() as session:
            (image,) = datasets.repository.images(session, OWNER, self.id)
            return image.caption


def _sha256(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()


class TestReceived:
    def test_what_was_changed_and_is_changed_back_is_sent_again(self, make: Any) -> None:
        sets = Sent(make)
        sets.send({"a.png": "A", "a.txt": "one"})
        sets.send({"a.txt": "two"})
        assert sets.knows("a.txt", "two")
        assert not sets.knows("a.txt", "one")
        sets.send({"a.txt": "one"})
        assert sets.caption() == "one"
        assert (sets.knows("a.txt", "one"), sets.knows("a.txt", "two")) == (True, False)
        assert sets.knows("a.png", "A")

    def test_so_is_a_mask(self, make: Any) -> None:
        sets = Sent(make)
        sets.send({"a.png": "A", "a_mask.png": "one"})
        sets.send({"a_mask.png": "two"})
        assert (sets.knows("a_mask.png", "one"), sets.knows("a_mask.png", "two")) == (False, True)

    def test_a_line_or_a_member_that_lost_to_another_of_the_files_name_counts_as_the_file(self, make: Any) -> None:
        for name in ("metadata.csv", "all.zip"):
            sets = Sent(make)
            sets.send({"a.png": "A", name: "one"})
            sets.send({name: "two"})
            assert sets.caption() == "two"
            assert (sets.knows(name, "one"), sets.knows(name, "two")) == (False, True)
            sets.send({name: "one"})
            assert (sets.caption(), sets.knows(name, "one")) == ("one", True)

    def test_a_caption_of_another_upload_of_that_name_is_still_there(self, make: Any) -> None:
        sets = Sent(make)
        sets.send({"a.png": "CAT", "a.txt": "a cat"})
        sets.send({"a.png": "DOG", "a.txt": "a dog"})
        assert (sets.knows("a.txt", "a cat"), sets.knows("a.txt", "a dog")) == (True, True)

    def test_one_that_lost_to_a_file_of_another_name_is_not_sent_again_and_again(self, make: Any) -> None:
        sets = Sent(make)
        sets.send({"metadata.csv": "a line", "a.png": "A", "a.txt": "a caption"})
        assert sets.knows("metadata.csv", "a line")

    def test_one_that_is_to_be_replaced_by_what_waits_is_sent_again(self, make: Any) -> None:
        sets = Sent(make)
        sets.send({"a.png": "A", "a.txt": "one"})
        sets.offer({"a.txt": "two"})
        assert (sets.knows("a.txt", "one"), sets.knows("a.txt", "two")) == (False, True)
