"""The sweep: nothing is lost when a worker is, and nothing is tried for ever."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from catalog import jobs
from catalog.bases import service as bases
from catalog.bases.service import BaseStatus
from catalog.datasets import service as datasets
from catalog.datasets.models import DatasetImage
from catalog.db import Database
from catalog.generations import service as generations
from catalog.jobs import Job, JobState, Queue
from catalog.runs import progress
from catalog.runs import service as runs
from catalog.sweep import SweepReport, give_up_dead_workers, sweep
from catalog.workers import service as workers
from catalog.workers.service import Device
from contracts.dataset import DatasetStatus, Fate
from contracts.events import CheckpointSaved
from contracts.generate import GenerationRequest, GenerationStatus
from contracts.run import RunReason, RunStatus


def _sweep(database: Database) -> SweepReport:
    with database.session() as session:
        return sweep(session)


def _read_run(database: Database, owner: str, run_id: str) -> Any:
    with database.reading() as session:
        return runs.read(session, owner, run_id)


def _set_likeness(database: Database, dataset_id: str, likeness: str | None) -> None:
    with database.session() as session:
        mine = update(DatasetImage).where(DatasetImage.dataset_id == dataset_id)
        session.execute(mine.values(likeness=likeness))


def _lose_after_checkpoint(database: Database, make: Any, step: int) -> None:
    """An attempt that saves a checkpoint, and whose worker is gone before the next."""
    claim = make.claim(Queue.TRAIN)
    with database.session() as session:
        progress.begin(session, claim, "cpu", keeps_directory=False)
        progress.record_events(session, claim, [CheckpointSaved(at=1.0, step=step, file=f"step-{step:08d}")], 100)
    make.expire(claim)
    _sweep(database)


def _files(database: Database, owner: str, dataset_id: str) -> dict[str, str]:
    with database.reading() as session:
        return {row.filename: row.fate for row in datasets.ledger(session, owner, dataset_id)}


class TestDeadWorkers:
    def test_on_this_host_give_up_their_jobs_and_devices_at_once(
        self, database: Database, make: Any, owner: str
    ) -> None:
        lost, kept = make.run(), make.run()
        with database.session() as session:
            workers.register_host(session, "here", [Device("cpu")])
            for worker_id, pid in (("dead", 7), ("living", 8)):
                workers.register_worker(session, worker_id, "train", "here", "boot-1", pid)
                assert jobs.claim(session, Queue.TRAIN, worker_id, 600)
            assert workers.lease_engine_slot(session, "here", "dead", 600)
        assert _sweep(database).requeued == ()
        with database.session() as session:
            assert give_up_dead_workers(session, "here", "boot-1", lambda pid: pid != 7) == ("dead",)
        assert [ref.subject_id for ref in _sweep(database).requeued] == [lost.id]
        assert _read_run(database, owner, kept.id).reason != RunReason.WORKER_LOST
        with database.reading() as session:
            assert [slot.held_by for slot in workers.list_slots(session)] == [None]
            assert [worker.id for worker in workers.alive_workers(session)] == ["living"]

    @pytest.mark.parametrize(("host", "boot_id"), [("elsewhere", "boot-1"), ("here", "boot-2")])
    def test_that_cannot_be_seen_from_here_are_left_alone(
        self, database: Database, make: Any, host: str, boot_id: str
    ) -> None:
        make.run()
        with database.session() as session:
            workers.register_worker(session, "away", "train", host, boot_id, 7)
            assert jobs.claim(session, Queue.TRAIN, "away", 600)
        with database.session() as session:
            assert give_up_dead_workers(session, "here", "boot-1", lambda _pid: False) == ()
        assert _sweep(database).requeued == ()


class TestLostWorker:
    def test_its_run_is_queued_again_and_the_next_worker_is_rung(
        self, database: Database, make: Any, owner: str, rung: list[str]
    ) -> None:
        run, claim = make.training(lease_s=-1)
        rung.clear()
        report = _sweep(database)
        assert [ref.subject_id for ref in report.requeued] == [run.id]
        assert "train" in rung
        seen = _read_run(database, owner, run.id)
        assert (seen.status, seen.reason) == (RunStatus.QUEUED, RunReason.WORKER_LOST)
        again = make.claim(Queue.TRAIN)
        assert (again.job_id, again.fence, again.attempt) == (claim.job_id, 2, 2)

    def test_a_run_that_loses_three_of_them_has_failed(self, database: Database, make: Any, owner: str) -> None:
        run = make.run()
        for _ in range(jobs.MAX_FAILURES):
            make.claim(Queue.TRAIN, lease_s=-1)
            report = _sweep(database)
        assert [ref.subject_id for ref in report.failed] == [run.id]
        seen = _read_run(database, owner, run.id)
        assert (seen.status, seen.failure_code) == (RunStatus.FAILED, "worker_lost")
        assert seen.failure_hint
        assert seen.finished_at is not None

    def test_a_run_that_came_on_between_any_number_of_losses_goes_on(
        self, database: Database, make: Any, owner: str
    ) -> None:
        run = make.run()
        for step in range(100, 100 * (2 * jobs.MAX_FAILURES), 100):
            _lose_after_checkpoint(database, make, step)
            assert _read_run(database, owner, run.id).status == RunStatus.QUEUED

    def test_a_run_that_is_lost_at_one_place_again_and_again_has_failed(
        self, database: Database, make: Any, owner: str
    ) -> None:
        run = make.run()
        _lose_after_checkpoint(database, make, 100)
        seen = []
        for step in (200, 200, 100):  # at last in a directory that has not the newest
            _lose_after_checkpoint(database, make, step)
            seen.append(_read_run(database, owner, run.id).status)
        assert seen == [RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.FAILED]

    def test_what_was_to_be_cancelled_is_cancelled(self, database: Database, make: Any, owner: str) -> None:
        run, claim = make.training()
        with database.session() as session:
            assert runs.cancel(session, owner, run.id).reason == RunReason.CANCELLING
        make.expire(claim)
        assert [ref.subject_id for ref in _sweep(database).cancelled] == [run.id]
        assert _read_run(database, owner, run.id).status == RunStatus.CANCELLED

    def test_a_generation_is_queued_again_and_at_last_failed(self, database: Database, make: Any, owner: str) -> None:
        make.base()
        with database.session() as session:
            generation = generations.create(session, owner, GenerationRequest(prompt="a cat"))
        seen = []
        for _ in range(jobs.MAX_FAILURES):
            claim = make.claim(Queue.GENERATE)
            with database.session() as session:
                generations.begin(session, claim)
            make.expire(claim)
            _sweep(database)
            with database.reading() as session:
                seen.append(generations.read(session, owner, generation.id).generation.status)
        assert seen == [GenerationStatus.QUEUED, GenerationStatus.QUEUED, GenerationStatus.FAILED]

    def test_files_that_cannot_be_read_are_rejected_and_the_rest_is_usable(
        self, database: Database, make: Any, owner: str
    ) -> None:
        dataset_id = make.dataset(images=2)
        with database.session() as session:
            datasets.offer_upload(session, owner, dataset_id, "poison.png", "uploads/ada/x", 10)
        for _ in range(jobs.MAX_FAILURES):
            make.claim(Queue.LIGHT, lease_s=-1)
            _sweep(database)
        with database.reading() as session:
            assert datasets.read(session, owner, dataset_id).status == DatasetStatus.READY
            last = datasets.ledger(session, owner, dataset_id)[-1]
        assert (last.filename, last.fate) == ("poison.png", Fate.REJECTED)
        assert "upload it again" in (last.reason or "")

    def test_a_base_that_ends_its_worker_is_not_added(self, database: Database, make: Any, owner: str) -> None:
        with database.session() as session:
            bases.request_add(session, "huge", "bases/huge", None)
        for _ in range(jobs.MAX_FAILURES):
            make.claim(Queue.GENERATE, lease_s=-1)
            _sweep(database)
        with database.reading() as session:
            assert bases.read(session, owner, "huge").status == BaseStatus.FAILED


class TestOneThatCannotBeTakenUp:
    def test_is_logged_and_left_as_it_was_while_the_others_are_taken_up(
        self, database: Database, make: Any, owner: str
    ) -> None:
        broken = make.dataset(images=2)
        _set_likeness(database, broken, "no hexadecimal")
        sound = make.dataset(images=2)
        with database.session() as session:
            for dataset_id in (broken, sound):
                datasets.offer_upload(session, owner, dataset_id, "last.png", "uploads/ada/x", 10)
        lost = [make.claim(Queue.LIGHT, lease_s=-1) for _ in range(2)]
        with database.session() as session:
            session.execute(update(Job).where(Job.state == JobState.LEASED).values(failures=jobs.MAX_FAILURES - 1))
        run, _ = make.training(lease_s=-1)
        with capture_logs() as logged:
            report = _sweep(database)
        assert [[ref.subject_id for ref in refs] for refs in (report.failed, report.requeued)] == [[sound], [run.id]]
        assert [(entry["event"], entry["job"]) for entry in logged] == [("sweep.job_left", lost[0].job_id)]
        assert _files(database, owner, broken)["last.png"] == Fate.PENDING
        assert _files(database, owner, sound)["last.png"] == Fate.REJECTED
        _set_likeness(database, broken, None)
        assert [ref.subject_id for ref in _sweep(database).failed] == [broken], "it is tried again"


class TestSweep:
    def test_leaves_living_work_alone(self, database: Database, make: Any, owner: str) -> None:
        run, _ = make.training()
        assert _sweep(database) == SweepReport((), (), (), ())
        assert _read_run(database, owner, run.id).status == RunStatus.PREPARING

    def test_rings_again_for_what_nobody_came_for(self, database: Database, make: Any, rung: list[str]) -> None:
        make.run()
        rung.clear()
        assert _sweep(database).rung == ()
        with database.session() as session:
            session.execute(update(Job).values(rung_at=Job.rung_at - 1000))
        assert _sweep(database).rung == ("train",)
        assert rung == ["train"]
        assert _sweep(database).rung == (), "it was rung a moment ago"

    def test_twice_is_once(self, database: Database, make: Any) -> None:
        make.training(lease_s=-1)
        assert len(_sweep(database).requeued) == 1
        assert _sweep(database).requeued == ()
        with database.reading() as session:
            assert session.scalar(select(Job.failures).where(Job.queue == Queue.TRAIN)) == 1

    @pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED, JobState.CANCELLED])
    def test_does_not_wake_what_is_over(self, database: Database, make: Any, state: JobState) -> None:
        _, claim = make.training()
        with database.session() as session:
            jobs.finish(session, claim.job_id, claim.fence, state)
            session.execute(update(Job).values(rung_at=0, lease_until=0))
        assert _sweep(database) == SweepReport((), (), (), ())
