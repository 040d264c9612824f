"""Workers and who holds which device."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from catalog import jobs
from catalog.db import Database
from catalog.jobs import Claim, JobState, Queue
from catalog.sweep import sweep
from catalog.workers import service as workers
from catalog.workers.models import Worker
from catalog.workers.service import Device, EngineSlot

HOST = "host-a"


@pytest.fixture(autouse=True)
def one_device(database: Database) -> None:
    with database.session() as session:
        workers.register_host(session, HOST, [Device("cpu")])


def _claim(database: Database, host: str = HOST, lease_s: float = 60.0) -> Claim | None:
    with database.session() as session:
        return workers.claim_with_device(session, Queue.TRAIN, "worker-1", host, lease_s)


def _lease(database: Database, engine: str = "engine-1", lease_s: float = 60.0) -> EngineSlot | None:
    with database.session() as session:
        return workers.lease_engine_slot(session, HOST, engine, lease_s)


def _holders(database: Database) -> list[str | None]:
    with database.reading() as session:
        return [slot.held_by for slot in workers.list_slots(session)]


@pytest.fixture
def queued(database: Database) -> None:
    with database.session() as session:
        for subject in ("run_1", "run_2", "run_3"):
            jobs.enqueue(session, "ada", Queue.TRAIN, "train", subject)


class TestRegisterHost:
    def test_makes_the_slots_be_the_devices(self, database: Database) -> None:
        with database.session() as session:
            workers.register_host(session, HOST, [Device("cuda:0", 80), Device("cuda:1", 80)])
            workers.register_host(session, "host-b", [Device("cpu")])
        with database.reading() as session:
            slots = [(slot.host, slot.index, slot.device, slot.memory_bytes) for slot in workers.list_slots(session)]
            assert workers.device_of(session, HOST, 1) == "cuda:1"
        assert sorted(slots) == [(HOST, 0, "cuda:0", 80), (HOST, 1, "cuda:1", 80), ("host-b", 0, "cpu", None)]

    def test_by_two_workers_at_once_makes_the_slots_once(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = workers.repository.slots
        answers = iter([[]])  # the first look is from before the other worker's commit
        monkeypatch.setattr(workers.repository, "slots", lambda *args: next(answers, None) or known(*args))
        with database.session() as session:
            workers.register_host(session, HOST, [Device("cuda:0")])
        assert _holders(database) == [None]

    def test_again_keeps_what_is_held_and_drops_what_is_gone(self, database: Database, queued: None) -> None:
        with database.session() as session:
            workers.register_host(session, HOST, [Device("cpu"), Device("cpu")])
        _claim(database)
        with database.session() as session:
            workers.register_host(session, HOST, [Device("cpu")])
        assert _holders(database) == ["job"]


@pytest.mark.usefixtures("queued")
class TestClaimWithDevice:
    def test_takes_a_job_and_a_device_together(self, database: Database) -> None:
        claim = _claim(database)
        assert claim is not None
        assert (claim.subject_id, claim.slot) == ("run_1", 0)
        assert _holders(database) == ["job"]

    def test_leaves_the_job_waiting_when_every_device_is_held(self, database: Database) -> None:
        _claim(database)
        assert _claim(database) is None
        with database.reading() as session:
            job = session.scalars(select(jobs.Job).where(jobs.Job.subject_id == "run_2")).one()
        assert (job.state, job.fence, job.attempts) == (JobState.QUEUED, 0, 0)

    def test_another_host_has_devices_of_its_own(self, database: Database) -> None:
        _claim(database)
        assert _claim(database, "host-without-devices") is None
        with database.session() as session:
            workers.register_host(session, "host-b", [Device("cpu")])
        found = _claim(database, "host-b")
        assert found is not None
        assert found.subject_id == "run_2"

    @pytest.mark.parametrize("how", ["finish", "release"])
    def test_the_device_is_free_when_the_job_is_over(self, database: Database, how: str) -> None:
        claim = _claim(database)
        assert claim is not None
        with database.session() as session:
            if how == "finish":
                jobs.finish(session, claim.job_id, claim.fence)
            else:
                jobs.release(session, claim.job_id, claim.fence, failed=False)
        assert _holders(database) == [None]
        assert _claim(database) is not None

    def test_the_device_of_a_lost_worker_is_free_when_the_sweep_has_taken_its_job(self, database: Database) -> None:
        lost = _claim(database, lease_s=-1)
        assert lost is not None
        assert _claim(database) is None, "its holder may only be late, and still compute on it"
        with database.session() as session:
            sweep(session)
        found = _claim(database)
        assert found is not None
        assert found.slot == lost.slot
        with database.session() as session:
            assert jobs.heartbeat(session, lost.job_id, lost.fence, 60) is None

    def test_two_devices_hold_two_jobs(self, database: Database) -> None:
        with database.session() as session:
            workers.register_host(session, HOST, [Device("cuda:0"), Device("cuda:1")])
        found = [_claim(database), _claim(database)]
        assert [claim.slot for claim in found if claim] == [0, 1]
        assert _claim(database) is None


class TestEngineSlot:
    def test_is_held_until_the_engine_gives_it_back(self, database: Database, queued: None, rung: list[str]) -> None:
        assert _lease(database) == EngineSlot(0, "cpu", unload_requested=False)
        assert _holders(database) == ["engine"]
        assert _claim(database) is None
        rung.clear()
        with database.session() as session:
            workers.release_engine_slot(session, HOST, "engine-1")
        assert rung == ["train"]
        assert _claim(database) is not None

    def test_a_waiting_run_asks_the_engine_to_unload(self, database: Database, queued: None) -> None:
        _lease(database)
        assert _claim(database) is None
        seen = _lease(database)
        assert seen is not None
        assert seen.unload_requested

    def test_a_request_to_unload_does_not_outlive_the_lease(self, database: Database, queued: None) -> None:
        _lease(database)
        _claim(database)
        with database.session() as session:
            workers.release_engine_slot(session, HOST, "engine-1")
        again = _lease(database)
        assert again is not None
        assert not again.unload_requested

    def test_waits_while_a_run_has_the_device(self, database: Database, queued: None) -> None:
        claim = _claim(database)
        assert claim is not None
        assert _lease(database) is None
        with database.session() as session:
            jobs.finish(session, claim.job_id, claim.fence)
        assert _lease(database) is not None

    def test_of_a_dead_engine_is_free_when_its_lease_is_over(self, database: Database, queued: None) -> None:
        _lease(database, lease_s=-1)
        assert _claim(database) is not None
        assert _lease(database) is None, "the late engine does not get it back from the run"

    def test_is_one_engine_s(self, database: Database) -> None:
        assert _lease(database, "engine-1") is not None
        assert _lease(database, "engine-2") is None
        with database.session() as session:
            workers.release_engine_slot(session, HOST, "engine-2")
        assert _holders(database) == ["engine"]


class TestWorkers:
    def test_are_alive_while_their_heartbeat_is_young(self, database: Database) -> None:
        with database.session() as session:
            for worker_id in ("w1", "w2", "w3"):
                workers.register_worker(session, worker_id, "train", HOST, "boot", 1)
            workers.forget_worker(session, "w2")
            session.execute(update(Worker).values(heartbeat_at=Worker.heartbeat_at - 1000))
            assert workers.heartbeat_worker(session, "w1")
            assert not workers.heartbeat_worker(session, "w2")
        assert self._alive(database) == ["w1"]

    def test_may_register_again_under_their_id(self, database: Database) -> None:
        for pid in (1, 2):
            with database.session() as session:
                workers.register_worker(session, "w1", "train", HOST, "boot", pid)
        with database.reading() as session:
            assert [worker.pid for worker in workers.alive_workers(session)] == [2]

    def _alive(self, database: Database) -> list[Any]:
        with database.reading() as session:
            return [worker.id for worker in workers.alive_workers(session)]
