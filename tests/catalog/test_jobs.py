"""Jobs: one holder at a time, whatever comes late, twice, or from two processes at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text

from catalog import job_requests, jobs
from catalog.db import Database, db_now
from catalog.jobs import Claim, Heartbeat, Job, JobState, Kind, LeaseLost, Queue
from catalog.sweep import sweep

CLAIMER = """
import sys
from catalog import job_requests, jobs
from catalog.db import Database, db_now

database = Database(sys.argv[1])
database.engine.connect().close()
print("ready", flush=True)
sys.stdin.readline()
for turn in range(1000):
    with database.session() as session:
        found = jobs.claim(session, "train", sys.argv[2], 60)
    if not found:
        break
    print(found[0].job_id, found[0].fence, flush=True)
    if turn == 0:
        sys.stdin.readline()
"""


def _enqueue(database: Database, subject: str, priority: int = 0, owner: str = "ada", kind: str = Kind.TRAIN) -> int:
    with database.session() as session:
        return jobs.enqueue(session, owner, Queue.TRAIN, kind, subject, priority).id


def _claim(database: Database, limit: int = 1, lease_s: float = 60.0) -> list[Claim]:
    with database.session() as session:
        return jobs.claim(session, Queue.TRAIN, "worker-1", lease_s, limit)


def _job(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def _somebody_waits(database: Database) -> bool:
    """Whether a transaction waits for another one; on SQLite each does from its begin on."""
    with database.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            return True
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


class TestEnqueue:
    def test_rings_its_queue(self, database: Database, rung: list[str]) -> None:
        _enqueue(database, "run_1")
        assert rung == ["train"]

    def test_once_adds_to_a_job_that_still_waits(self, database: Database, rung: list[str]) -> None:
        with database.session() as session:
            for _ in range(3):
                job_requests.enqueue_once(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")
            job_requests.enqueue_once(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_2")
        with database.reading() as session:
            assert [job.subject_id for job in session.scalars(select(Job).order_by(Job.id))] == ["ds_1", "ds_2"]
        assert rung == ["light"]

    def test_once_is_one_job_when_two_transactions_ask_at_the_same_moment(self, database: Database) -> None:
        def ask() -> None:
            with database.session() as session:
                job_requests.enqueue_once(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")

        with ThreadPoolExecutor(1) as pool:
            with database.session() as session:
                job_requests.enqueue_once(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")
                other = pool.submit(ask)
                while not (other.done() or _somebody_waits(database)):
                    pass
            other.result()
        with database.reading() as session:
            assert len(session.scalars(select(Job)).all()) == 1

    def test_once_beside_a_job_that_is_given_back_then_is_two_jobs_and_never_three(self, database: Database) -> None:
        _enqueue(database, "run_1")
        (claim,) = _claim(database)
        for given_back in (False, True):
            with database.session() as session:
                job_requests.enqueue_once(session, "ada", Queue.TRAIN, Kind.TRAIN, "run_1")
                if not given_back:
                    assert jobs.release(session, claim.job_id, claim.fence, failed=True) == JobState.QUEUED
        with database.reading() as session:
            assert list(session.scalars(select(Job.state))) == [JobState.QUEUED, JobState.QUEUED]

    def test_once_makes_a_new_job_when_the_last_one_is_being_done(self, database: Database) -> None:
        _enqueue(database, "run_1")
        _claim(database)
        with database.session() as session:
            job_requests.enqueue_once(session, "ada", Queue.TRAIN, Kind.TRAIN, "run_1")
        with database.reading() as session:
            assert len(session.scalars(select(Job)).all()) == 2


class TestClaim:
    def test_takes_higher_priorities_first_and_then_older_jobs(self, database: Database) -> None:
        for subject, priority in (("run_1", 0), ("run_2", 5), ("run_3", 0), ("run_4", 5)):
            _enqueue(database, subject, priority)
        assert [_claim(database)[0].subject_id for _ in range(4)] == ["run_2", "run_4", "run_1", "run_3"]
        assert _claim(database) == []

    def test_takes_several_in_order(self, database: Database) -> None:
        for subject, priority in (("run_1", 0), ("run_2", 5), ("run_3", 0)):
            _enqueue(database, subject, priority)
        assert [claim.subject_id for claim in _claim(database, limit=2)] == ["run_2", "run_1"]

    def test_raises_the_fence_and_counts_the_attempt(self, database: Database) -> None:
        _enqueue(database, "run_1", owner="bob")
        claim = _claim(database)[0]
        assert claim == Claim(claim.job_id, 1, "bob", "train", "train", "run_1", 1)

    def test_looks_at_its_own_queue_only(self, database: Database) -> None:
        _enqueue(database, "run_1")
        with database.session() as session:
            assert jobs.claim(session, Queue.LIGHT, "worker-1", 60) == []

    def test_a_message_that_comes_twice_finds_nothing_the_second_time(self, database: Database) -> None:
        _enqueue(database, "run_1")
        assert len(_claim(database)) == 1
        assert _claim(database) == []

    def test_of_one_kind_leaves_the_others_of_its_queue(self, database: Database) -> None:
        with database.session() as session:
            jobs.enqueue(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")
            jobs.enqueue(session, "ada", Queue.LIGHT, Kind.FETCH, "ds_1")
            (claim,) = jobs.claim(session, Queue.LIGHT, "worker-1", 60, kind=Kind.FETCH)
            assert claim.kind == Kind.FETCH
            assert jobs.claim(session, Queue.LIGHT, "worker-1", 60, kind=Kind.FETCH) == []
            (claim,) = jobs.claim(session, Queue.LIGHT, "worker-1", 60, kind=Kind.INGEST)
            assert claim.kind == Kind.INGEST

    def test_leaves_what_pauses_until_somebody_hastens_it(self, database: Database, rung: list[str]) -> None:
        with database.session() as session:
            jobs.enqueue(session, "ada", Queue.LIGHT, Kind.FETCH, "ds_1", pause_s=60)
        assert rung == []
        with database.session() as session:
            assert jobs.claim(session, Queue.LIGHT, "worker-1", 60) == []
            job_requests.hasten(session, "eve", Kind.FETCH, "ds_1")
            assert jobs.claim(session, Queue.LIGHT, "worker-1", 60) == []
            job_requests.hasten(session, "ada", Kind.FETCH, "ds_1")
            assert len(jobs.claim(session, Queue.LIGHT, "worker-1", 60)) == 1

    def test_leaves_a_subject_alone_that_somebody_works_on(self, database: Database) -> None:
        first = _enqueue(database, "ds_1", kind=Kind.INGEST)
        claim = _claim(database)[0]
        second = _enqueue(database, "ds_1", kind=Kind.INGEST)
        assert _claim(database) == []
        with database.session() as session:
            jobs.finish(session, claim.job_id, claim.fence)
        assert [first, second] == [claim.job_id, _claim(database)[0].job_id]

    def test_two_processes_never_get_the_same_job(self, database: Database) -> None:
        with database.session() as session:
            added = [jobs.enqueue(session, "ada", Queue.TRAIN, Kind.TRAIN, f"run_{index}") for index in range(40)]
            expected = [job.id for job in added]
        url = database.url.render_as_string(hide_password=False)
        claimers = [
            subprocess.Popen(
                [sys.executable, "-c", CLAIMER, url, f"worker-{index}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        for claimer in claimers:
            assert claimer.stdout is not None
            assert claimer.stdout.readline() == "ready\n"
        said = []
        for _ in range(2):  # the first claim of each, and then all the rest, at the same time
            for claimer in claimers:
                assert claimer.stdin is not None
                claimer.stdin.write("go\n")
                claimer.stdin.flush()
            if not said:
                said = [claimer.stdout.readline().strip() for claimer in claimers if claimer.stdout is not None]
        said += [line for claimer in claimers for line in claimer.communicate()[0].splitlines()]
        assert [claimer.returncode for claimer in claimers] == [0, 0]
        assert sorted(said) == sorted(f"{job_id} 1" for job_id in expected)


class TestHeartbeat:
    def test_prolongs_the_lease(self, database: Database) -> None:
        _enqueue(database, "run_1")
        claim = _claim(database, lease_s=10)[0]
        before = _job(database, claim.job_id).lease_until
        with database.session() as session:
            assert jobs.heartbeat(session, claim.job_id, claim.fence, 100) == Heartbeat(cancel_requested=False)
        after = _job(database, claim.job_id).lease_until
        assert before is not None
        assert after is not None
        assert after - before > 50

    def test_tells_that_the_owner_wants_it_stopped(self, database: Database) -> None:
        _enqueue(database, "run_1")
        claim = _claim(database)[0]
        with database.session() as session:
            assert job_requests.request_cancel(session, "ada", Kind.TRAIN, "run_1") == JobState.LEASED
        with database.session() as session:
            assert jobs.heartbeat(session, claim.job_id, claim.fence, 60) == Heartbeat(cancel_requested=True)


class TestLateWriter:
    @pytest.fixture
    def stale(self, database: Database) -> Claim:
        """A claim that ran out, whose job another worker has since taken."""
        _enqueue(database, "run_1")
        stale = _claim(database, lease_s=-1)[0]
        with database.session() as session:
            sweep(session)
        assert _claim(database)[0].fence == stale.fence + 1
        return stale

    def test_learns_from_its_heartbeat_that_it_lost_the_lease(self, database: Database, stale: Claim) -> None:
        with database.session() as session:
            assert jobs.heartbeat(session, stale.job_id, stale.fence, 60) is None

    def test_changes_nothing(self, database: Database, stale: Claim) -> None:
        before = vars(_job(database, stale.job_id)).copy()
        with database.session() as session:
            assert not jobs.finish(session, stale.job_id, stale.fence)
            assert jobs.release(session, stale.job_id, stale.fence, failed=True) is None
            with pytest.raises(LeaseLost):
                jobs.hold(session, stale)
        after = vars(_job(database, stale.job_id)).copy()
        before.pop("_sa_instance_state"), after.pop("_sa_instance_state")
        assert before == after

    def test_is_refused_while_the_job_waits_for_the_next_worker(self, database: Database) -> None:
        _enqueue(database, "run_1")
        stale = _claim(database, lease_s=-1)[0]
        with database.session() as session:
            sweep(session)
        with database.session() as session, pytest.raises(LeaseLost):
            jobs.hold(session, stale)


class TestFinish:
    def test_ends_the_job_for_good(self, database: Database) -> None:
        _enqueue(database, "run_1")
        claim = _claim(database)[0]
        with database.session() as session:
            assert jobs.finish(session, claim.job_id, claim.fence)
            assert not jobs.finish(session, claim.job_id, claim.fence)
        job = _job(database, claim.job_id)
        assert (job.state, job.lease_until) == (JobState.DONE, None)
        assert job.finished_at is not None
        assert _claim(database) == []

    def test_of_a_run_rings_for_whoever_waited_for_its_device(self, database: Database, rung: list[str]) -> None:
        _enqueue(database, "run_1")
        claim = _claim(database)[0]
        rung.clear()
        with database.session() as session:
            jobs.finish(session, claim.job_id, claim.fence)
        assert sorted(rung) == ["generate", "train"]

    def test_of_an_ingest_rings_for_the_upload_that_came_meanwhile(self, database: Database, rung: list[str]) -> None:
        with database.session() as session:
            job_requests.enqueue_once(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")
        with database.session() as session:
            claim = jobs.claim(session, Queue.LIGHT, "worker-1", 60)[0]
            job_requests.enqueue_once(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")
            assert jobs.claim(session, Queue.LIGHT, "worker-2", 60) == []
        rung.clear()
        with database.session() as session:
            jobs.finish(session, claim.job_id, claim.fence)
        assert rung == ["light"]


class TestRelease:
    def test_an_interruption_is_no_failure(self, database: Database, rung: list[str]) -> None:
        _enqueue(database, "run_1")
        for _ in range(5):
            claim = _claim(database)[0]
            rung.clear()
            with database.session() as session:
                assert jobs.release(session, claim.job_id, claim.fence, failed=False) == JobState.QUEUED
            assert "train" in rung
        job = _job(database, claim.job_id)
        assert (job.attempts, job.failures, job.preemptions, job.fence) == (5, 0, 5, 5)

    def test_the_third_failure_ends_it(self, database: Database) -> None:
        _enqueue(database, "run_1")
        states = []
        for _ in range(jobs.MAX_FAILURES):
            claim = _claim(database)[0]
            with database.session() as session:
                states.append(jobs.release(session, claim.job_id, claim.fence, failed=True))
        assert states == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
        assert _claim(database) == []

    def test_pauses_longer_after_every_failure_and_not_after_an_interruption(self, database: Database) -> None:
        pauses = []
        with database.session() as session:
            jobs.enqueue(session, "ada", Queue.LIGHT, Kind.INGEST, "ds_1")
            for failed in (False, True, True):
                (claim,) = jobs.claim(session, Queue.LIGHT, "worker-1", 60)
                jobs.release(session, claim.job_id, claim.fence, failed=failed, pauses_s=(60, 600))
                pauses.append(session.scalar(select(Job.not_before - db_now())))
                job_requests.hasten(session, "ada", Kind.INGEST, "ds_1")
        assert pauses[0] is None
        assert 0 < pauses[1] <= 60 < pauses[2] <= 600

    def test_of_what_was_cancelled_ends_it(self, database: Database) -> None:
        _enqueue(database, "run_1")
        claim = _claim(database)[0]
        with database.session() as session:
            job_requests.request_cancel(session, "ada", Kind.TRAIN, "run_1")
            assert jobs.release(session, claim.job_id, claim.fence, failed=False) == JobState.CANCELLED


class TestRequestCancel:
    def test_ends_a_waiting_job_at_once(self, database: Database) -> None:
        _enqueue(database, "run_1")
        with database.session() as session:
            assert job_requests.request_cancel(session, "ada", Kind.TRAIN, "run_1") == JobState.CANCELLED
        assert _claim(database) == []

    def test_finds_nothing_of_another_owner_or_when_it_is_over(self, database: Database) -> None:
        _enqueue(database, "run_1")
        with database.session() as session:
            assert job_requests.request_cancel(session, "bob", Kind.TRAIN, "run_1") is None
        claim = _claim(database)[0]
        with database.session() as session:
            jobs.finish(session, claim.job_id, claim.fence)
            assert job_requests.request_cancel(session, "ada", Kind.TRAIN, "run_1") is None


class TestUnfinished:
    def test_names_subjects_whose_job_waits_or_is_being_done(self, database: Database) -> None:
        _enqueue(database, "run_1")
        _enqueue(database, "run_2")
        _enqueue(database, "run_3", owner="bob")
        claim = _claim(database)[0]
        found: dict[str, Any] = {}
        for step in ("before", "after"):
            with database.session() as session:
                found[step] = job_requests.unfinished(
                    session, "ada", [Kind.TRAIN], ["run_1", "run_2", "run_3", "run_4"]
                )
                jobs.finish(session, claim.job_id, claim.fence)
        assert found == {"before": {"run_1", "run_2"}, "after": {"run_2"}}
