"""How far a reading is, and the end of it on request: what was taken in stays, and every file has one fate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalog import jobs, removing
from catalog.datasets import fetches, ingest, ingests, progress
from catalog.datasets import service as datasets
from catalog.datasets.ingest import DecodedImage, Member
from catalog.datasets.ingests import IngestView
from catalog.db import Database
from catalog.jobs import Claim, Job, JobState, LeaseLost, Queue
from catalog.sweep import sweep
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.ingest import IngestPhase, IngestStatus

Decode = Callable[..., DecodedImage]


@pytest.fixture
def dataset_id(make: Any) -> str:
    return str(make.dataset(images=0))


@pytest.fixture
def offer(database: Database, owner: str, dataset_id: str) -> Callable[..., list[int]]:
    def upload(*names: str) -> list[int]:
        with database.session() as session:
            return [
                datasets.offer_upload(session, owner, dataset_id, name, f"uploads/ada/{name}", 10).id for name in names
            ]

    return upload


@pytest.fixture
def seen(database: Database, owner: str, dataset_id: str) -> Callable[[], IngestView]:
    def look() -> IngestView:
        with database.reading() as session:
            return ingests.read(session, owner, dataset_id)

    return look


def take(database: Database, claim: Claim, limit: int = 64) -> None:
    with database.session() as session:
        ingest.pending_files(session, claim, limit)


def cancel(database: Database, owner: str, dataset_id: str) -> ingests.Cancellation:
    with database.session() as session:
        return ingests.cancel(session, owner, dataset_id)


def fates(database: Database, owner: str, dataset_id: str) -> dict[str, tuple[str, str | None]]:
    with database.reading() as session:
        return {row.filename: (row.fate, row.reason) for row in datasets.ledger(session, owner, dataset_id)}


class TestRead:
    def test_counts_what_is_found_and_done_while_archives_are_unpacked(
        self, database: Database, offer: Any, seen: Any, make: Any, decoded: Decode
    ) -> None:
        assert (seen().status, seen().found, seen().number) == (IngestStatus.IDLE, 0, 0)
        archive, image, copy = offer("a.zip", "cat.png", "copy.png")
        told = [seen()]
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        told.append(seen())
        with database.session() as session:
            members = [Member("dog.png", 5, "uploads/ada/x"), Member("x.pdf", 7, None, "not an image")]
            ingest.record_members(session, claim, archive, members)
            ingest.record_image(session, claim, image, decoded("cat"))
            ingest.record_image(session, claim, copy, decoded("cat"))
        told.append(seen())
        with database.session() as session:
            (dog,) = ingest.pending_files(session, claim)
            ingest.record_image(session, claim, dog.id, decoded("dog"))
        with database.session() as session:
            ingest.finish(session, claim)
        told.append(seen())
        assert [view.status for view in told] == ["queued", "reading", "reading", "done"]
        assert [(view.found, view.done) for view in told] == [(3, 0), (3, 0), (5, 4), (5, 5)]
        assert [(view.found_bytes, view.done_bytes) for view in told] == [(30, 0), (30, 0), (42, 37), (42, 42)]
        assert [view.seq for view in told] == sorted(view.seq for view in told)
        assert {view.number for view in told} == {1}
        assert told[-1].fates == {Fate.PENDING: 0, Fate.USED: 3, Fate.DUPLICATE: 1, Fate.REJECTED: 1}
        assert told[-1].ended_at is not None

    def test_what_the_worker_does_is_told_until_it_ends(
        self, database: Database, offer: Any, seen: Any, make: Any
    ) -> None:
        offer("a.zip")
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        with database.session() as session:
            progress.tell(session, claim, IngestPhase.UNPACKING, "a.zip", 3, 9)
        view = seen()
        assert (view.phase, view.file, view.file_done, view.file_total) == ("unpacking", "a.zip", 3, 9)
        with database.session() as session:
            ingest.reject(session, claim, 1, "no")
            ingest.finish(session, claim)
        assert (seen().phase, seen().file) == (None, None)

    def test_files_offered_meanwhile_belong_to_it_and_later_ones_to_the_next(
        self, database: Database, offer: Any, seen: Any, make: Any, decoded: Decode
    ) -> None:
        (first,) = offer("a.png")
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        (second,) = offer("b.png")
        assert (seen().number, seen().found) == (1, 2)
        with database.session() as session:
            ingest.record_image(session, claim, first, decoded("a"))
        with database.session() as session:
            ingest.finish(session, claim)
        assert (seen().status, seen().number, seen().found, seen().done) == ("queued", 1, 2, 1)
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        with database.session() as session:
            ingest.record_image(session, claim, second, decoded("b"))
            ingest.finish(session, claim)
        ended = seen()
        assert (ended.status, ended.number, ended.found, ended.done) == ("done", 1, 2, 2)
        offer("c.png")
        assert (seen().status, seen().number, seen().found, seen().done) == ("queued", 2, 1, 0)
        take(database, make.claim(Queue.LIGHT))
        assert (seen().number, seen().found) == (2, 1)
        assert seen().seq > ended.seq

    def test_a_file_that_cannot_be_read_yet_says_why(
        self, database: Database, offer: Any, seen: Any, make: Any
    ) -> None:
        (file_id,) = offer("a.png")
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        with database.session() as session:
            ingest.wait(session, claim, file_id, "waits for room")
        assert seen().waits_for == "a.png: waits for room"

    def test_given_up_after_several_attempts_it_has_failed(
        self, database: Database, owner: str, dataset_id: str, offer: Any, seen: Any, make: Any
    ) -> None:
        offer("a.png")
        for _ in range(jobs.MAX_FAILURES):
            make.expire(make.claim(Queue.LIGHT))
            with database.session() as session:
                sweep(session)
        assert (seen().status, seen().found, seen().done) == ("failed", 1, 1)
        assert fates(database, owner, dataset_id)["a.png"] == (Fate.REJECTED, ingests.LOST)

    def test_of_another_owner_there_is_none(self, database: Database, dataset_id: str, offer: Any) -> None:
        offer("a.png")
        for ask in (ingests.read, ingests.cancel):
            with database.session() as session, pytest.raises(PatinaError) as refused:
                ask(session, "bob", dataset_id)
            assert refused.value.code is FailureCode.NOT_FOUND


class TestCancel:
    def test_before_a_worker_comes_it_is_over_at_once(
        self, database: Database, owner: str, dataset_id: str, offer: Any, seen: Any
    ) -> None:
        offer("a.png", "b.zip")
        left = cancel(database, owner, dataset_id)
        assert sorted(left.blob_keys) == ["uploads/ada/a.png", "uploads/ada/b.zip"]
        assert (left.ingest.status, left.ingest.found, left.ingest.done) == ("cancelled", 2, 2)
        assert fates(database, owner, dataset_id) == dict.fromkeys(
            ("a.png", "b.zip"), (Fate.REJECTED, progress.CANCELLED)
        )
        with database.session() as session:
            assert jobs.claim(session, Queue.LIGHT, "w", 60) == []
        assert seen().fates[Fate.REJECTED] == 2

    def test_in_the_middle_what_was_read_stays_and_gets_its_caption(
        self, database: Database, owner: str, dataset_id: str, offer: Any, seen: Any, make: Any, decoded: Decode
    ) -> None:
        cat, words, late, _ = offer("cat.png", "cat.txt", "late.png", "later.png")
        claim = make.claim(Queue.LIGHT)
        take(database, claim, limit=3)
        with database.session() as session:
            ingest.record_image(session, claim, cat, decoded("cat"))
            ingest.record_caption(session, claim, words, "a cat")
        assert cancel(database, owner, dataset_id).ingest.status is IngestStatus.CANCELLING
        with database.session() as session:
            ingest.record_image(session, claim, late, decoded("late"))
        for step in (ingest.pending_files, ingest.finish):
            with database.session() as session, pytest.raises(progress.CancelRequested):
                step(session, claim)
        with database.session() as session, pytest.raises(progress.CancelRequested):
            progress.tell(session, claim, IngestPhase.DECODING)
        with database.session() as session:
            assert sorted(ingest.stop(session, claim)) == ["uploads/ada/late.png", "uploads/ada/later.png"]
        view = seen()
        assert (view.status, view.found, view.done) == ("cancelled", 4, 4)
        assert view.fates == {Fate.PENDING: 0, Fate.USED: 2, Fate.DUPLICATE: 0, Fate.REJECTED: 2}
        told = fates(database, owner, dataset_id)
        assert told["cat.txt"] == (Fate.USED, None)
        assert told["late.png"] == told["later.png"] == (Fate.REJECTED, progress.CANCELLED)
        with database.reading() as session:
            assert datasets.read(session, owner, dataset_id).images == 1
            assert session.query(Job).one().state == JobState.CANCELLED

    def test_is_kept_when_the_worker_crashes_before_it_has_heard_of_it(
        self, database: Database, owner: str, dataset_id: str, offer: Any, seen: Any, make: Any, decoded: Decode
    ) -> None:
        cat, words, _ = offer("cat.png", "cat.txt", "late.png")
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        with database.session() as session:
            ingest.record_image(session, claim, cat, decoded("cat"))
            ingest.record_caption(session, claim, words, "a cat")
        cancel(database, owner, dataset_id)
        make.expire(claim)
        with database.session() as session:
            sweep(session)
        assert (seen().status, seen().found, seen().done) == ("cancelled", 3, 3)
        assert fates(database, owner, dataset_id)["cat.txt"] == (Fate.USED, None)
        with database.session() as session:
            assert jobs.claim(session, Queue.LIGHT, "w", 60) == []
        with database.session() as session, pytest.raises(LeaseLost):
            ingest.stop(session, claim)

    def test_files_offered_after_it_are_read(
        self, database: Database, owner: str, dataset_id: str, offer: Any, seen: Any, make: Any, decoded: Decode
    ) -> None:
        offer("a.png")
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        cancel(database, owner, dataset_id)
        (later,) = offer("b.png")
        with database.session() as session:
            assert ingest.stop(session, claim) == ["uploads/ada/a.png"]
        assert (seen().status, seen().number, seen().found) == ("queued", 2, 1)
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        with database.session() as session:
            ingest.record_image(session, claim, later, decoded("b"))
            ingest.finish(session, claim)
        assert fates(database, owner, dataset_id)["b.png"][0] == Fate.USED
        assert (seen().status, seen().number) == ("done", 2)

    def test_twice_is_once_and_nothing_to_cancel_is_refused(
        self, database: Database, owner: str, dataset_id: str, offer: Any, make: Any, decoded: Decode
    ) -> None:
        with pytest.raises(PatinaError) as refused:
            cancel(database, owner, dataset_id)
        assert refused.value.code is FailureCode.CONFLICT
        (first,) = offer("a.png")
        cancel(database, owner, dataset_id)
        assert cancel(database, owner, dataset_id).ingest.status is IngestStatus.CANCELLED
        (second,) = offer("b.png")
        assert second != first
        claim = make.claim(Queue.LIGHT)
        take(database, claim)
        with database.session() as session:
            ingest.record_image(session, claim, second, decoded("b"))
            ingest.finish(session, claim)
        with pytest.raises(PatinaError, match="is being read"):
            cancel(database, owner, dataset_id)

    def test_a_removed_dataset_takes_it_along(
        self, database: Database, owner: str, dataset_id: str, offer: Any, make: Any
    ) -> None:
        offer("a.png")
        take(database, make.claim(Queue.LIGHT))
        with database.session() as session:
            removing.remove_dataset(session, owner, dataset_id)
        with database.reading() as session:
            assert progress.find(session, owner, dataset_id) is None

    def test_that_a_slow_job_hears_late_does_not_end_the_reading_after_it(
        self, database: Database, owner: str, dataset_id: str, offer: Any, seen: Any
    ) -> None:
        offer("a.png")
        with database.session() as session:
            fetches.offer(session, owner, dataset_id, [fetches.Wanted("https://example.org/b.png")])
        reading, fetching = (_claimed(database, kind) for kind in (jobs.Kind.INGEST, jobs.Kind.FETCH))
        cancel(database, owner, dataset_id)
        with database.session() as session:
            ingest.stop(session, reading)
        (later,) = offer("c.png")
        claim = _claimed(database, jobs.Kind.INGEST)
        take(database, claim)
        with database.session() as session:
            state = jobs.release(session, fetching.job_id, fetching.fence, failed=False)
            ingests.after_job(session, owner, dataset_id, state, jobs.Kind.FETCH)
        with database.session() as session:
            ingest.reject(session, claim, later, "no picture")
            ingest.finish(session, claim)
        assert (seen().status, seen().number, seen().found) == (IngestStatus.DONE, 2, 1)


def _claimed(database: Database, kind: str) -> Claim:
    with database.session() as session:
        return jobs.claim(session, Queue.LIGHT, "w", 60, kind=kind)[0]
