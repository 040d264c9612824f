"""What the train worker reports, and what a worker that was given up cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalog import jobs
from catalog.db import Database
from catalog.jobs import Claim, JobState, LeaseLost, Queue
from catalog.registry import service as registry
from catalog.runs import progress
from catalog.runs import service as runs
from catalog.runs.models import Run
from catalog.runs.progress import StoredFile
from catalog.sweep import sweep
from contracts.events import EVENT, Preview, Started, StepDone, Tracking
from contracts.events import Progress as Phase
from contracts.failures import FailureCode
from contracts.run import RunReason, RunStatus
from contracts.rundir import Failed

STARTED = Started(
    at=1.0,
    steps=10,
    first_step=0,
    images=3,
    held_out_images=0,
    trainable_parameters=5,
    processes=1,
    device="cpu",
    exact=True,
)
STEP = StepDone(at=2.0, step=1, loss=0.5, loss_smooth=0.6, learning_rate=1e-4, grad_norm=1.0, images_per_s=3.0)
PREVIEW = Preview(at=3.0, step=1, file="a.png", prompt="a cat", seed=7)
STORED = StoredFile("runs/x/a.png", "9" * 64, 100)


def _failed(retryable: bool) -> Failed:
    return Failed(
        step=3, code=FailureCode.NAN_LOSS, message="It is nan.", hint="Lower it.", retryable=retryable, reference="r1"
    )


def _read(database: Database, owner: str, run_id: str) -> Run:
    with database.reading() as session:
        return runs.read(session, owner, run_id)


class TestBegin:
    def test_makes_the_run_preparing(self, database: Database, make: Any, owner: str) -> None:
        run, _ = make.training()
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.reason, seen.attempt, seen.device) == ("preparing", RunReason.WORKING, 1, "cpu")

    def test_goes_on_in_the_directory_of_an_earlier_attempt_or_anew(self, database: Database, make: Any) -> None:
        _, claim = make.training()
        with database.session() as session:
            progress.record_events(session, claim, [STARTED], 100)
        offsets = []
        for keeps in (True, False):
            with database.session() as session:
                progress.give_back(session, claim)
            claim = make.claim(Queue.TRAIN)
            with database.session() as session:
                run = progress.begin(session, claim, "cpu", keeps_directory=keeps)
            offsets.append(run.events_offset)
        assert offsets == [100, 0]


class TestRecordEvents:
    def test_follows_the_trainer(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        said = [
            Phase(at=1.0, phase="caching", done=1, total=3),
            STARTED,
            STEP,
            Tracking(at=2.0, mode="off", where="off"),
        ]
        with database.session() as session:
            assert progress.record_events(session, claim, said, 400) == 4
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.step, seen.loss, seen.tracking, seen.phase) == ("training", 1, 0.6, "off", None)

    def test_keeps_every_word_in_order_for_whoever_comes_late(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        for offset, said in ((10, [STARTED]), (20, [STEP, PREVIEW])):
            with database.session() as session:
                progress.record_events(session, claim, said, offset)
        with database.reading() as session:
            rows = runs.events(session, owner, run.id)
            later = runs.events(session, owner, run.id, after_seq=2)
            assert runs.events(session, owner, run.id, after_seq=2**31 - 1) == []
        assert [row.seq for row in rows] == [1, 2, 3]
        assert [EVENT.validate_json(row.body) for row in rows] == [STARTED, STEP, PREVIEW]
        assert [row.seq for row in later] == [3]

    def test_lines_recorded_before_are_not_recorded_again(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        for _ in range(2):
            with database.session() as session:
                assert progress.record_events(session, claim, [STARTED, STEP], 50) == 2
        with database.reading() as session:
            assert len(runs.events(session, owner, run.id)) == 2

    def test_numbers_go_on_in_the_next_attempt(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            progress.record_events(session, claim, [STARTED, STEP], 50)
            progress.give_back(session, claim)
        again = make.claim(Queue.TRAIN)
        with database.session() as session:
            progress.begin(session, again, "cpu", keeps_directory=False)
            assert progress.record_events(session, again, [STARTED], 10) == 3
        assert _read(database, owner, run.id).status == RunStatus.TRAINING


class TestRecordPreview:
    def test_is_there_once_however_often_the_step_is_done(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        for sha256 in ("8" * 64, "9" * 64):
            with database.session() as session:
                stored = StoredFile(f"runs/{sha256[0]}", sha256, 100)
                progress.record_preview(session, claim, PREVIEW, stored)
        with database.reading() as session:
            previews = runs.previews(session, owner, run.id)
            assert [(p.file, p.sha256, p.prompt, p.seed) for p in previews] == [("a.png", "9" * 64, "a cat", 7)]
            assert runs.find_preview(session, owner, "9" * 64) == "runs/9"
            assert runs.find_preview(session, "bob", "9" * 64) is None


class TestComplete:
    def test_ends_run_and_job(self, database: Database, make: Any, owner: str, completed: Any) -> None:
        run, claim = make.training()
        with database.session() as session:
            progress.publishing(session, claim)
            progress.complete(session, claim, completed(step=10, train_seconds=5.0))
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.reason, seen.step) == (RunStatus.SUCCEEDED, RunReason.COMPLETED, 10)
        assert seen.seconds_per_step == 0.5
        assert seen.outcome is not None
        with database.session() as session, pytest.raises(LeaseLost):
            progress.complete(session, claim, completed())


class TestFail:
    def test_tells_why_and_what_to_do(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            assert progress.fail(session, claim, _failed(retryable=False)) == RunStatus.FAILED
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.failure_code, seen.failure_hint) == (RunStatus.FAILED, "nan_loss", "Lower it.")
        assert seen.failure_reference == "r1"

    def test_that_may_pass_is_tried_again_but_not_for_ever(self, database: Database, make: Any, owner: str) -> None:
        run = make.run()
        seen = []
        for _ in range(3):
            claim = make.claim(Queue.TRAIN)
            with database.session() as session:
                progress.begin(session, claim, "cpu", keeps_directory=False)
                seen.append(progress.fail(session, claim, _failed(retryable=True)))
        assert seen == [RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.FAILED]
        assert _read(database, owner, run.id).failure_code == "nan_loss"

    def test_of_what_was_to_be_cancelled_is_its_cancellation(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            runs.cancel(session, owner, run.id)
            assert progress.fail(session, claim, _failed(retryable=True)) == RunStatus.CANCELLED


class TestGiveBack:
    def test_queues_it_again_without_counting_a_failure(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            assert progress.give_back(session, claim) == RunStatus.QUEUED
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.reason) == (RunStatus.QUEUED, RunReason.PREEMPTED)

    def test_of_what_was_to_be_cancelled_is_its_cancellation(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            runs.cancel(session, owner, run.id)
            assert progress.give_back(session, claim) == RunStatus.CANCELLED


class TestWaitForStore:
    def test_queues_it_for_later_without_counting_a_failure(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            assert progress.wait_for_store(session, claim, 60) == RunStatus.QUEUED
            assert jobs.claim(session, Queue.TRAIN, "worker-2", 60) == []
            job = session.get_one(jobs.Job, claim.job_id)
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.reason, job.failures) == (RunStatus.QUEUED, RunReason.WAITING_FOR_STORE, 0)

    def test_of_what_was_to_be_cancelled_is_its_cancellation(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            runs.cancel(session, owner, run.id)
            assert progress.wait_for_store(session, claim, 60) == RunStatus.CANCELLED


class TestCancelled:
    def test_ends_run_and_job(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            runs.cancel(session, owner, run.id)
            progress.cancelled(session, claim)
        seen = _read(database, owner, run.id)
        assert (seen.status, seen.reason) == (RunStatus.CANCELLED, RunReason.CANCELLED)


class TestLateWorker:
    def test_writes_nothing_about_a_run_another_has_taken(
        self, database: Database, make: Any, owner: str, completed: Any
    ) -> None:
        run, late = make.training()
        make.expire(late)
        with database.session() as session:
            sweep(session)
        claim = make.claim(Queue.TRAIN, worker="worker-2")
        with database.session() as session:
            progress.begin(session, claim, "cuda:0", keeps_directory=False)
        before = vars(_read(database, owner, run.id))
        header = make.header()
        publication = registry.Publication(header, "runs/late/w", "c" * 64, 1, {})
        writes: list[Callable[[Any, Claim], object]] = [
            lambda session, c: progress.begin(session, c, "cpu", keeps_directory=True),
            lambda session, c: progress.record_events(session, c, [STARTED], 10),
            lambda session, c: progress.record_preview(session, c, PREVIEW, STORED),
            lambda session, c: progress.record_log(session, c, "runs/late/log"),
            lambda session, c: progress.publishing(session, c),
            lambda session, c: registry.publish(session, c, publication),
            lambda session, c: progress.complete(session, c, completed()),
            lambda session, c: progress.fail(session, c, _failed(retryable=True)),
            lambda session, c: progress.give_back(session, c),
            lambda session, c: progress.wait_for_store(session, c, 60),
            lambda session, c: progress.cancelled(session, c),
        ]
        for write in writes:
            with database.session() as session, pytest.raises(LeaseLost):
                write(session, late)
        after = vars(_read(database, owner, run.id))
        before.pop("_sa_instance_state"), after.pop("_sa_instance_state")
        assert before == after
        with database.session() as session:
            assert runs.jobs.finish(session, claim.job_id, claim.fence, JobState.DONE)
