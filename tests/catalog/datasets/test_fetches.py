"""Addresses in the ledger: offered once, fetched when they are due, and never lost between two jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from catalog import jobs, removing
from catalog.datasets import editing, fetches, ingest, service
from catalog.datasets.fetches import Due, Offered, Wanted
from catalog.datasets.models import DatasetFetch
from catalog.db import Database
from catalog.jobs import Claim, Kind, LeaseLost, Queue
from contracts.dataset import DatasetStatus
from contracts.failures import FailureCode, PatinaError
from tests.catalog.conftest import OWNER, Make, decoded

CAT, DOG = "https://example.com/cat.png", "https://example.com/dog.png"


class Dataset:
    """A dataset, and a worker that does what a test says."""

    def __init__(self, make: Make) -> None:
        self.database: Database = make.database
        self.id = make.dataset(images=0)

    def offer(self, *wanted: Wanted | str, owner: str = OWNER) -> Offered:
        listed = [one if isinstance(one, Wanted) else Wanted(one) for one in wanted]
        with self.database.session() as session:
            return fetches.offer(session, owner, self.id, listed)

    def claim(self, kind: Kind) -> Claim | None:
        with self.database.session() as session:
            found = jobs.claim(session, Queue.LIGHT, "worker-1", 60, kind=kind)
        return found[0] if found else None

    def fetching(self, most: int = 10) -> tuple[Claim, list[Due]]:
        claim = self.claim(Kind.FETCH)
        assert claim is not None
        with self.database.session() as session:
            return claim, fetches.due(session, claim, most)

    def fetch(self, *, came: bool = True, most: int = 10) -> list[str]:
        """One pass, in which every picture comes or fails for good; the addresses that were due."""
        claim, due = self.fetching(most)
        with self.database.session() as session:
            for one in due:
                if came:
                    assert fetches.record(session, claim, one.file_id, f"uploads/{OWNER}/x", 10)
                else:
                    fetches.reject(session, claim, one.file_id, "the server answered 404")
            fetches.pass_on(session, claim)
        return [one.url for one in due]

    def read(self, **of_it: str) -> None:
        claim = self.claim(Kind.INGEST)
        assert claim is not None
        with self.database.session() as session:
            for row in ingest.pending_files(session, claim):
                ingest.record_image(session, claim, row.id, replace(decoded(row.filename), **of_it))
            ingest.finish(session, claim)

    def rows(self) -> Sequence[tuple[str, str]]:
        with self.database.reading() as session:
            return [(row.filename, row.fate) for row in service.ledger(session, OWNER, self.id)]

    def captions(self) -> dict[str, str | None]:
        with self.database.reading() as session:
            rows = service.ledger(session, OWNER, self.id)
            return {row.filename: row.caption for row in rows if row.kind == "image"}


@pytest.fixture
def dataset(make: Make) -> Dataset:
    return Dataset(make)


class TestOffer:
    def test_makes_one_row_of_an_address_however_often_it_is_named(self, dataset: Dataset) -> None:
        assert dataset.offer(CAT, DOG, CAT) == Offered(new=2, again=0, known=1)
        assert dataset.offer(CAT) == Offered(new=0, again=0, known=1)
        assert dataset.rows() == [(CAT, "pending"), (DOG, "pending")]
        assert dataset.fetch() == [CAT, DOG]
        dataset.read()
        assert dataset.offer(CAT, DOG) == Offered(new=0, again=0, known=2)
        assert dataset.claim(Kind.FETCH) is None, "what the dataset has is not fetched again"
        assert dataset.rows() == [(CAT, "used"), (DOG, "used")]

    def test_gives_another_chance_to_one_that_failed_in_the_row_it_has(self, dataset: Dataset) -> None:
        dataset.offer(CAT)
        dataset.fetch(came=False)
        dataset.read()
        assert dataset.rows() == [(CAT, "rejected")]
        assert dataset.offer(CAT) == Offered(new=0, again=1, known=0)
        assert dataset.rows() == [(CAT, "pending")]
        dataset.fetch()
        dataset.read()
        assert dataset.rows() == [(CAT, "used")]

    def test_takes_a_new_caption_for_a_picture_that_is_there(self, dataset: Dataset) -> None:
        dataset.offer(Wanted(CAT, "a cat"), Wanted(DOG, "  "))
        dataset.fetch()
        dataset.read()
        assert dataset.captions() == {CAT: "a cat", DOG: None}
        dataset.offer(Wanted(CAT, "a cat"))
        assert dataset.claim(Kind.INGEST) is None, "nothing new was said"
        dataset.offer(Wanted(CAT, "a black cat"), Wanted(DOG, "a dog"))
        dataset.read()
        assert dataset.captions() == {CAT: "a black cat", DOG: "a dog"}
        assert dict(dataset.rows())[f"{CAT}:caption"] == "used"
        assert sorted(fate for _, fate in dataset.rows()) == ["duplicate", "used", "used", "used", "used"]

    def test_leaves_out_what_was_taken_out(self, dataset: Dataset) -> None:
        dataset.offer(CAT)
        dataset.fetch()
        dataset.read()
        with dataset.database.session() as session:
            (image,) = editing.list_images(session, OWNER, dataset.id).items
            editing.remove_image(session, OWNER, dataset.id, image.image, None)
        assert dataset.rows() == [(CAT, "rejected")]
        assert dataset.offer(CAT) == Offered(new=0, again=0, known=1)

    def test_gives_another_chance_to_what_was_removed_also_with_its_alpha_channel(self, dataset: Dataset) -> None:
        for offered in (Offered(new=1, again=0, known=0), Offered(new=0, again=1, known=0)):
            assert dataset.offer(CAT) == offered
            dataset.fetch()
            dataset.read(alpha="a" * 64, alpha_key="images/alpha.png")
            assert dataset.rows() == [(CAT, "used"), (f"{CAT}:alpha", "used")]
            with dataset.database.session() as session:
                removing.remove_image(session, OWNER, dataset.id, decoded(CAT).identity)
            assert dataset.rows() == [(CAT, "rejected"), (f"{CAT}:alpha", "rejected")]

    def test_is_for_owners_of_the_dataset(self, dataset: Dataset) -> None:
        with pytest.raises(PatinaError) as caught:
            dataset.offer(CAT, owner="eve")
        assert caught.value.code is FailureCode.NOT_FOUND


class TestPasses:
    def test_take_only_what_is_due(self, dataset: Dataset) -> None:
        dataset.offer(CAT)
        claim, (cat,) = dataset.fetching()
        with dataset.database.session() as session:
            fetches.try_again(session, claim, cat.file_id, "the server answered 503")
            fetches.pass_on(session, claim)
        assert dataset.claim(Kind.FETCH) is None, "the next job waits as long as the address does"
        dataset.offer(DOG)
        assert dataset.fetch() == [DOG], "a new address does not wait for an old one's pause"

    def test_leave_one_job_for_the_rest(self, dataset: Dataset) -> None:
        dataset.offer(CAT, DOG)
        claim, due = dataset.fetching()
        dataset.offer("https://example.com/more.png")
        with dataset.database.session() as session:
            fetches.record(session, claim, due[0].file_id, "uploads/x", 10)
            fetches.pass_on(session, claim)
        assert sorted(dataset.fetch()) == [DOG, "https://example.com/more.png"]
        assert dataset.claim(Kind.FETCH) is None
        with dataset.database.reading() as session:
            assert session.query(DatasetFetch).count() == 0
            assert service.read(session, OWNER, dataset.id).status is DatasetStatus.INGESTING

    def test_have_what_came_read_when_it_is_worth_it_and_in_the_end(
        self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetches, "READ_AT_ONCE", 2)
        dataset.offer(*(f"https://example.com/{n}" for n in range(4)))
        dataset.fetch(most=1)
        assert dataset.claim(Kind.INGEST) is None
        dataset.fetch(most=1)
        dataset.read()
        assert sorted(fate for _, fate in dataset.rows()) == ["pending", "pending", "used", "used"]
        dataset.fetch(most=1)
        assert dataset.claim(Kind.INGEST) is None
        dataset.fetch(most=1)
        dataset.read()
        assert {fate for _, fate in dataset.rows()} == {"used"}

    def test_write_nothing_with_a_lost_lease(self, dataset: Dataset, make: Make) -> None:
        dataset.offer(CAT)
        claim, (cat,) = dataset.fetching()
        with dataset.database.session() as session:
            jobs.release(session, claim.job_id, claim.fence, failed=False)
        for write in (
            lambda session: fetches.record(session, claim, cat.file_id, "uploads/x", 10),
            lambda session: fetches.reject(session, claim, cat.file_id, "why"),
            lambda session: fetches.try_again(session, claim, cat.file_id, "why"),
            lambda session: fetches.pass_on(session, claim),
        ):
            with dataset.database.session() as session, pytest.raises(LeaseLost):
                write(session)
        assert dataset.rows() == [(CAT, "pending")]

    def test_end_with_the_dataset(self, dataset: Dataset) -> None:
        dataset.offer(CAT)
        claim, (cat,) = dataset.fetching()
        with dataset.database.session() as session:
            removing.remove_dataset(session, OWNER, dataset.id)
        with dataset.database.session() as session, pytest.raises(LeaseLost):
            fetches.record(session, claim, cat.file_id, "uploads/x", 10)
        with dataset.database.reading() as session:
            assert session.query(DatasetFetch).count() == 0

    def test_are_not_done_by_whoever_reads_uploads(self, dataset: Dataset) -> None:
        dataset.offer(CAT)
        with dataset.database.session() as session:
            service.offer_upload(session, OWNER, dataset.id, "mine.png", f"uploads/{OWNER}/y", 10)
        dataset.read()
        assert dataset.rows() == [(CAT, "pending"), ("mine.png", "used")]
        dataset.fetch()
        dataset.read()
        assert dataset.rows() == [(CAT, "used"), ("mine.png", "used")]
