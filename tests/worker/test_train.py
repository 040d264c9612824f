"""Supervising a run: a real database, store and process; the process only says what a trainer would say."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from catalog import jobs, removing
from catalog.bases.models import Base
from catalog.blobs import BlobStore
from catalog.datasets import editing
from catalog.datasets import service as datasets
from catalog.datasets.parquet import schema
from catalog.db import db_now
from catalog.job_requests import hasten
from catalog.jobs import Job
from catalog.runs import service as runs
from catalog.sweep import sweep
from contracts.failures import FailureCode
from contracts.removal import Choice
from contracts.rundir import OUTCOME, Grace, RunDir, Stopped
from tests.worker.conftest import OWNER
from tests.worker.runs import add_base, freeze_pictures, job_of, queue_run, run_of, stand_in, weights_of
from worker import launcher, train, weights_files
from worker.doorbell import Shift
from worker.processes import marked
from worker.run_leftovers import clear_removed
from worker.settings import WorkerSettings
from worker.station import Station, open_station
from worker.weights_files import FETCHED
from worker.weights_files import clear_removed as clear_fetched

Plays = Callable[[str], str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a base and a frozen dataset, to be copied."""
    home = tmp_path_factory.mktemp("prepared")
    station = open_station("test", settings=WorkerSettings(home=home, device="cpu"))
    add_base(station, home)
    freeze_pictures(station)
    station.close()
    return home


@pytest.fixture
def station(home: Path, prepared: Path) -> Iterator[Station]:
    shutil.copytree(prepared, home)
    settings = WorkerSettings(
        home=home, device="cpu", lease_s=30, heartbeat_s=0.05, stop_grace_s=1, term_grace_s=0.5, threads=1
    )
    station = open_station("train", settings.devices, settings)
    yield station
    assert marked(station.settings.home_dir) == [], "no process of an attempt may outlive its worker's interest"
    station.close()


@pytest.fixture
def elsewhere(station: Station, tmp_path: Path) -> Iterator[Station]:
    """A worker of the same database and store with a disk of its own."""
    shared = {"database_url": station.settings.database, "storage_url": station.settings.storage}
    settings = station.settings.model_copy(update={"home": tmp_path / "elsewhere", **shared})
    station = open_station("train", settings.devices, settings)
    yield station
    station.close()


@pytest.fixture
def play(station: Station, monkeypatch: pytest.MonkeyPatch) -> Plays:
    """Queue a run whose trainer does what the script says; returns the run's id."""

    def queue(script: str, run_id: str | None = None, **changes: str) -> str:
        run_id = run_id or queue_run(station)
        monkeypatch.setattr(launcher, "command", stand_in(station, run_id, script, **changes))
        return run_id

    return queue


def run_dir(station: Station, run_id: str) -> RunDir:
    return RunDir(station.settings.runs_dir / run_id)


def cancel(station: Station, run_id: str) -> None:
    with station.database.session() as session:
        runs.cancel(session, OWNER, run_id)


def expire_leases(station: Station) -> None:
    with station.database.session() as session:
        session.query(Job).filter(Job.state == "leased").update({"lease_until": db_now() - 1})
    with station.database.session() as session:
        sweep(session)


def hasten_run(station: Station, run_id: str) -> None:
    with station.database.session() as session:
        hasten(session, OWNER, jobs.Kind.TRAIN, run_id)


def stored(station: Station, name: str) -> list[str]:
    return [blob.key for blob in station.blobs.listed("runs") if blob.key.endswith(name)]


class Away(Exception):
    """As botocore's EndpointConnectionError: no OSError."""


class TestInitFrom:
    def test_the_trainer_gets_the_file_of_the_weights_it_starts_from(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = play("complete()")
        assert train.work(station, Shift())
        (weights,) = weights_of(station, first)
        second = queue_run(station, {"init_from": "tiny@1"})
        launches, start = [], stand_in(station, second, "complete()")
        monkeypatch.setattr(launcher, "command", lambda launch: launches.append(launch) or start(launch))
        assert train.work(station, Shift())
        assert run_of(station, second).status == "succeeded"
        assert launches[0].init_weights.read_bytes() == station.blobs.get_bytes(weights.blob_key)

    def test_waits_while_their_store_is_away(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        play("complete()")
        assert train.work(station, Shift())
        run_id = play("complete()", queue_run(station, {"init_from": "tiny@1"}))
        with monkeypatch.context() as patched:
            patched.setattr(weights_files, "_hash", _raising(ConnectionError()))
            patched.setattr(BlobStore, "put_bytes", _raising(ConnectionError()))
            assert not train.work(station, Shift())
        assert run_of(station, run_id).reason == "waiting_for_store"
        hasten_run(station, run_id)
        assert train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"

    def test_weights_that_are_gone_by_then_fail_the_run_by_name(self, station: Station) -> None:
        run_id = queue_run(station, {"init_from": "tiny@1"})
        assert train.work(station, Shift())
        run = run_of(station, run_id)
        assert run.status == "failed"
        assert run.failure_code == "not_found"
        assert "tiny" in str(run.failure_message)


class TestCompletedRun:
    def test_is_published_once_with_its_events_previews_and_log(self, station: Station, play: Plays) -> None:
        run_id = play("print('hello from the trainer'); started(); step(1); preview('one.png'); step(2); complete()")
        assert train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.step, run.attempt) == ("succeeded", 20, 1)
        (weights,) = weights_of(station, run_id)
        assert weights.metrics["held_out_loss"] == 0.4
        assert weights.base_identity == "a" * 64
        assert station.blobs.get_bytes(weights.blob_key).endswith(b"}}")
        with station.database.reading() as session:
            types = [event.type for event in runs.events(session, OWNER, run_id)]
            (shown,) = runs.previews(session, OWNER, run_id)
        assert types == ["started", "step", "preview", "step"]
        assert station.blobs.get_bytes(shown.blob_key) == b"png one.png"
        assert b"hello from the trainer" in station.blobs.get_bytes(str(run.log_key))
        assert job_of(station, run_id).state == "done"
        assert not train.work(station, Shift()), "there is nothing left to do"

    def test_registers_its_weights_and_not_what_it_exported_of_them(self, station: Station, play: Plays) -> None:
        run_id = play("complete(exported=True)")
        assert train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"
        (weights,) = weights_of(station, run_id)
        file = run_dir(station, run_id).weights / "tiny.safetensors"
        assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()

    def test_gets_its_configuration_and_its_pictures(self, station: Station, play: Plays) -> None:
        run_id = play("complete()")
        train.work(station, Shift())
        folder = run_dir(station, run_id)
        assert yaml.safe_load(folder.config.read_text()) == run_of(station, run_id).config
        assert (folder.dataset / "data.parquet").is_file()
        assert "image" in schema().names

    def test_on_several_versions_gets_all_of_them(self, station: Station, play: Plays) -> None:
        # The same pictures without one of them: another version of the same dataset.
        with station.database.session() as session:
            image = editing.list_images(session, OWNER, "pictures").items[0].image
            editing.remove_image(session, OWNER, "pictures", image, None)
            datasets.freeze(session, OWNER, "pictures", held_out_share=0.2)
        choices = [{"dataset": "pictures", "version": 1}, {"dataset": "pictures", "version": 2, "weight": 0.5}]
        run_id = play("complete()", queue_run(station, fed_by=choices))
        train.work(station, Shift())
        folder = run_dir(station, run_id)
        counts = [pq.read_metadata(folder.dataset / part / "data.parquet").num_rows for part in ("1", "2")]
        assert (counts, run_of(station, run_id).status) == ([6, 5], "succeeded")

    def test_that_died_before_publishing_is_published_without_training_again(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = play("step(1); complete()")
        with monkeypatch.context() as patched:
            patched.setattr(train, "publish", _crash)
            with pytest.raises(KeyboardInterrupt):
                train.work(station, Shift())
        expire_leases(station)
        play("raise SystemExit('must not be started')", run_id)
        assert train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"
        assert len(weights_of(station, run_id)) == 1

    def test_whose_file_names_another_base_is_refused_with_both(self, station: Station, play: Plays) -> None:
        run_id = play("complete(identity='c' * 64)")
        train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.failure_code) == ("failed", FailureCode.BASE_MISMATCH)
        assert "a" * 64 in str(run.failure_message)
        assert "c" * 64 in str(run.failure_message)
        assert weights_of(station, run_id) == []


class TestRemoved:
    def test_runs_and_withdrawn_pictures_leave_this_machine_and_nothing_else_does(
        self, station: Station, play: Plays
    ) -> None:
        first = play("complete()")
        train.work(station, Shift())
        second = play("complete()")
        train.work(station, Shift())
        stranger = station.settings.runs_dir / "run_of_another_database"
        stranger.mkdir()
        clear_removed(station)
        assert all((run_dir(station, run_id).dataset / "data.parquet").is_file() for run_id in (first, second))
        with station.database.session() as session:
            removing.remove_version(session, OWNER, "pictures", 1, Choice.KEEP_HISTORY)
            removing.remove_run(session, OWNER, first, Choice.REMOVE_WEIGHTS)
        clear_removed(station)
        assert not run_dir(station, first).root.exists()
        assert not run_dir(station, second).dataset.exists()
        assert run_dir(station, second).config.is_file()
        assert stranger.is_dir()

    def test_weights_leave_the_files_that_were_fetched(self, station: Station, play: Plays) -> None:
        run_id = play("complete()")
        train.work(station, Shift())
        (registered,) = weights_of(station, run_id)
        folder = station.settings.cache_dir / FETCHED
        folder.mkdir(parents=True)
        kept, gone = (folder / f"{sha256}.safetensors" for sha256 in (registered.sha256, "0" * 64))
        for path in (kept, gone):
            path.touch()
        clear_fetched(station)
        assert (kept.exists(), gone.exists()) == (True, False)
        with station.database.session() as session:
            removing.remove_weights(session, OWNER, registered.name, "latest")
        clear_fetched(station)
        assert not kept.exists()


class TestCancel:
    def test_stops_the_trainer_by_its_control_file(self, station: Station, play: Plays) -> None:
        run_id = play("started(); wait_for_stop(); end(state='stopped', step=3)")
        _while_it_trains(station, run_id, lambda: cancel(station, run_id))
        assert run_of(station, run_id).status == "cancelled"
        assert job_of(station, run_id).state == "cancelled"
        assert run_dir(station, run_id).control("stop").exists(), "the stand-in leaves it; the trainer takes it away"

    def test_waits_as_long_as_the_trainer_says_it_needs(self, station: Station, play: Plays) -> None:
        run_id = play(
            """
            signal.signal(signal.SIGTERM, lambda *_: end(state="failed", step=0, code="worker_lost", message="TERM",
                hint="", retryable=False))
            started(); wait_for_stop(); time.sleep(2.5); end(state="stopped", step=3)
            """
        )
        asked = Grace(step_s=4, save_s=4, leave_s=2, grace_s=20)
        run_dir(station, run_id).root.mkdir(parents=True)
        run_dir(station, run_id).grace.write_text(asked.model_dump_json())
        _while_it_trains(station, run_id, lambda: cancel(station, run_id))
        outcome = OUTCOME.validate_json(run_dir(station, run_id).outcome.read_bytes())
        assert outcome == Stopped(step=3), "TERM came although the trainer had said that it needs longer"

    def test_saves_and_previews_asked_for_reach_the_trainer(self, station: Station, play: Plays) -> None:
        run_id = play(
            """
            started()
            while not ((run / "control" / "save").exists() and (run / "control" / "preview").exists()):
                time.sleep(0.02)
            complete()
            """
        )

        def ask() -> None:
            with station.database.session() as session:
                runs.ask(session, OWNER, run_id, "save")
                runs.ask(session, OWNER, run_id, "preview")

        _while_it_trains(station, run_id, ask)
        run = run_of(station, run_id)
        assert (run.status, run.save_asked, run.preview_asked) == ("succeeded", False, False)

    def test_ends_a_trainer_that_does_not_listen(self, station: Station, play: Plays) -> None:
        run_id = play("signal.signal(signal.SIGTERM, signal.SIG_IGN); started(); time.sleep(600)")
        _while_it_trains(station, run_id, lambda: cancel(station, run_id))
        assert run_of(station, run_id).status == "cancelled"

    def test_reaches_processes_in_sessions_of_their_own(self, station: Station, play: Plays) -> None:
        run_id = play(
            """
            import subprocess
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            started(); wait_for_stop(); end(state="stopped", step=1)
            """
        )
        _while_it_trains(station, run_id, lambda: cancel(station, run_id))
        assert run_of(station, run_id).status == "cancelled"


class TestDrain:
    def test_gives_the_run_back_after_a_checkpoint_without_counting_a_failure(
        self, station: Station, play: Plays
    ) -> None:
        run_id = play("started(); step(1); wait_for_stop(); end(state='stopped', step=1)")
        shift = Shift()
        _while_it_trains(station, run_id, shift.drain, shift)
        run, job = run_of(station, run_id), job_of(station, run_id)
        assert (run.status, run.reason) == ("queued", "preempted")
        assert (job.state, job.failures, job.preemptions) == ("queued", 0, 1)

    def test_the_next_attempt_goes_on_in_the_same_directory_and_says_nothing_twice(
        self, station: Station, play: Plays
    ) -> None:
        run_id = play("started(); step(1); wait_for_stop(); end(state='stopped', step=1)")
        shift = Shift()
        _while_it_trains(station, run_id, shift.drain, shift)
        play("assert not stop_asked(); started(1); step(2); complete()", run_id)
        train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.attempt) == ("succeeded", 2)
        with station.database.reading() as session:
            said = [(event.type, event.step) for event in runs.events(session, OWNER, run_id)]
        assert said == [("started", 0), ("step", 1), ("started", 0), ("step", 2)]

    def test_a_run_that_failed_goes_on_there_when_it_is_resumed(self, station: Station, play: Plays) -> None:
        run_id = play(
            """
            (run / "checkpoints" / "of-it").touch()
            started(); step(1)
            end(state="failed", step=1, code="nan_loss", message="It is nan.", hint="", retryable=False)
            """
        )
        assert train.work(station, Shift())
        assert run_of(station, run_id).status == "failed"
        assert not train.work(station, Shift())
        with station.database.session() as session:
            runs.resume(session, OWNER, run_id)
        play("assert (run / 'checkpoints' / 'of-it').exists(); started(1); step(2); complete()", run_id)
        assert train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.attempt, run.failure_code) == ("succeeded", 2, None)
        with station.database.reading() as session:
            said = [(event.type, event.step) for event in runs.events(session, OWNER, run_id)]
        assert said == [("started", 0), ("step", 1), ("started", 0), ("step", 2)]

    def test_an_attempt_elsewhere_and_back_loses_nothing_of_what_is_said(
        self, station: Station, elsewhere: Station, play: Plays
    ) -> None:
        run_id = play("started(); step(1); step(2); wait_for_stop(); end(state='stopped', step=2)")
        shift = Shift()
        _while_it_trains(station, run_id, shift.drain, shift)
        play("started(); [step(n) for n in range(1, 6)]; wait_for_stop(); end(state='stopped', step=5)", run_id)
        shift = Shift()
        _while_it_trains(elsewhere, run_id, shift.drain, shift)
        play("started(2); step(3); complete()", run_id)
        assert train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"
        with station.database.reading() as session:
            said = [(event.type, event.step) for event in runs.events(session, OWNER, run_id)]
            metrics = runs.metrics(session, OWNER, run_id)
        here = [("started", 0), ("step", 1), ("step", 2)]
        there = [("started", 0), *(("step", n) for n in range(1, 6))]
        assert said == [*here, *there, *here, ("started", 0), ("step", 3)]
        assert [one.step for one in metrics.steps] == [1, 2, 3, 4, 5]

    def test_however_many_attempts_one_log_is_kept(self, station: Station, play: Plays) -> None:
        run_id = play("print('one'); started(); step(1); wait_for_stop(); end(state='stopped', step=1)")
        shift = Shift()
        _while_it_trains(station, run_id, shift.drain, shift)
        play("print('two'); complete()", run_id)
        train.work(station, Shift())
        assert stored(station, "trainer.log") == [run_of(station, run_id).log_key]


class TestStoreAway:
    @pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left"), ConnectionError(), Away()])
    def test_a_trained_run_waits_for_it_however_long_it_takes(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch, trouble: Exception
    ) -> None:
        run_id = play("step(1); complete()")
        with monkeypatch.context() as patched:
            for method in ("put_bytes", "put_file"):
                patched.setattr(BlobStore, method, _raising(trouble))
            for _ in range(jobs.MAX_FAILURES + 1):
                assert not train.work(station, Shift()), "there is no hurry"
                hasten_run(station, run_id)
            run, job = run_of(station, run_id), job_of(station, run_id)
            assert (run.status, run.reason, job.failures) == ("queued", "waiting_for_store", 0)
        play("raise SystemExit('must not be started')", run_id)
        assert train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"

    def test_it_is_given_time_to_come_back(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = play("complete()")
        with monkeypatch.context() as patched:
            patched.setattr(BlobStore, "put_file", _raising(OSError(errno.EDQUOT, "Quota exceeded")))
            train.work(station, Shift())
        assert not train.work(station, Shift())
        cancel(station, run_id)
        assert run_of(station, run_id).status == "cancelled"

    def test_what_was_stored_of_several_files_takes_no_room_meanwhile(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = play(
            """
            complete()
            manifest = json.loads((run / "manifest.json").read_text())
            (run / "weights" / "second.safetensors").write_bytes((run / "weights" / "tiny.safetensors").read_bytes())
            manifest["files"].append({**manifest["files"][0], "path": "weights/second.safetensors"})
            (run / "manifest.json").write_text(json.dumps(manifest))
            """
        )
        real = BlobStore.put_file

        def room_for_one(store: BlobStore, key: str, path: Path) -> str:
            if path.name == "second.safetensors":
                raise OSError(errno.ENOSPC, "No space left")
            return real(store, key, path)

        monkeypatch.setattr(BlobStore, "put_file", room_for_one)
        assert not train.work(station, Shift())
        assert run_of(station, run_id).reason == "waiting_for_store"
        assert stored(station, ".safetensors") == []

    def test_for_a_moment_does_not_end_a_trainer(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = play(
            """
            started(); preview('one.png')
            while not (run / "was-away").exists():
                time.sleep(0.02)
            complete()
            """
        )
        real = BlobStore.put_file

        def away_once(store: BlobStore, key: str, path: Path) -> str:
            seen = run_dir(station, run_id).root / "was-away"
            if not seen.exists():
                seen.touch()
                raise Away
            return real(store, key, path)

        monkeypatch.setattr(BlobStore, "put_file", away_once)
        assert train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.attempt) == ("succeeded", 1)


class TestFailure:
    def test_said_by_the_trainer_is_shown(self, station: Station, play: Plays) -> None:
        run_id = play(
            "end(state='failed', step=4, code='nan_loss', message='Not a number.', hint='Lower it.', retryable=False)"
        )
        train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.failure_code, run.failure_hint) == ("failed", FailureCode.NAN_LOSS, "Lower it.")

    def test_of_a_silent_death_is_tried_again_then_given_up(self, station: Station, play: Plays) -> None:
        run_id = play("os.kill(os.getpid(), 9)")
        for attempt in range(1, jobs.MAX_FAILURES + 1):
            assert train.work(station, Shift())
            assert job_of(station, run_id).attempts == attempt
            assert not train.work(station, Shift()), "what it ran into is given time to pass"
            hasten_run(station, run_id)
        run = run_of(station, run_id)
        assert (run.status, run.failure_code) == ("failed", FailureCode.WORKER_LOST)
        assert not train.work(station, Shift())

    def test_an_old_outcome_is_not_taken_for_a_new_one(self, station: Station, play: Plays) -> None:
        run_id = play("end(state='failed', step=1, code='internal', message='x', hint='y', retryable=True)")
        train.work(station, Shift())
        play("pass", run_id)
        hasten_run(station, run_id)
        train.work(station, Shift())
        assert job_of(station, run_id).failures == 2
        play("complete()", run_id)
        hasten_run(station, run_id)
        train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"

    def test_of_a_base_that_is_gone_is_said_before_anything_starts(self, station: Station, play: Plays) -> None:
        run_id = play("complete()")
        with station.database.session() as session:
            session.query(Base).update({"source": "/nowhere/at/all"})
        train.work(station, Shift())
        run = run_of(station, run_id)
        assert (run.status, run.failure_code) == ("failed", FailureCode.BASE_UNREADABLE)
        assert "tiny-base" in str(run.failure_message)
        assert "/nowhere" not in str(run.failure_message), "where a base lies is not for users"

    def test_an_unknown_error_shows_a_reference_and_not_itself(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = play("complete()")

        def broken(launch: object) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(launcher, "start", broken)
        for _ in range(jobs.MAX_FAILURES):
            train.work(station, Shift())
            hasten_run(station, run_id)
        run = run_of(station, run_id)
        assert (run.status, run.failure_code) == ("failed", FailureCode.INTERNAL)
        assert run.failure_reference
        assert "secret" not in str(run.failure_message) + str(run.failure_hint)


class TestLease:
    def test_lost_means_the_trainer_is_killed_and_nothing_is_written(self, station: Station, play: Plays) -> None:
        run_id = play("started(); step(1); wait_for_stop(); complete()")
        _while_it_trains(station, run_id, lambda: expire_leases(station))
        run = run_of(station, run_id)
        assert (run.status, run.reason) == ("queued", "worker_lost")
        assert weights_of(station, run_id) == []
        assert not run_dir(station, run_id).outcome.exists()

    def test_an_orphan_of_an_expired_lease_is_ended_before_the_next_attempt(
        self, station: Station, play: Plays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = play("signal.signal(signal.SIGTERM, signal.SIG_IGN); started(); time.sleep(600)")
        real = launcher.start
        with monkeypatch.context() as patched:
            patched.setattr(launcher, "start", lambda launch: _crash(real(launch)))
            with pytest.raises(KeyboardInterrupt):
                train.work(station, Shift())
        (orphan,) = marked(station.settings.home_dir)
        train.end_leftovers(station)
        assert marked(station.settings.home_dir) == [orphan], "its lease may still be somebody's"
        expire_leases(station)
        play("complete()", run_id)
        train.work(station, Shift())
        assert run_of(station, run_id).status == "succeeded"
        assert marked(station.settings.home_dir) == []

    def test_two_workers_start_one_trainer(self, station: Station, play: Plays) -> None:
        run_id = play("(run / f'started-{os.getpid()}').touch(); complete()")
        threads = [threading.Thread(target=train.work, args=(station, Shift())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(run_dir(station, run_id).root.glob("started-*"))) == 1
        assert len(weights_of(station, run_id)) == 1


class TestDevices:
    def test_a_second_run_waits_for_the_only_device(self, station: Station, play: Plays) -> None:
        first = play("started(); wait_for_stop(); end(state='stopped', step=1)")
        second = queue_run(station)
        seen: list[str] = []

        def look() -> None:
            assert not train.work(station, Shift()), "the only device is taken"
            waiting = run_of(station, second)
            seen.extend((waiting.status, waiting.reason))
            cancel(station, first)

        _while_it_trains(station, first, look)
        assert seen == ["queued", "waiting_for_device"]


def _while_it_trains(station: Station, run_id: str, then: Callable[[], object], shift: Shift | None = None) -> None:
    """Work in a thread; when the run is training do ``then``, and wait for the end of the work."""
    thread = threading.Thread(target=train.work, args=(station, shift or Shift()))
    thread.start()
    while thread.is_alive() and run_of(station, run_id).status != "training":
        thread.join(0.05)
    then()
    thread.join(60)
    assert not thread.is_alive()


def _raising(trouble: Exception) -> Callable[..., Any]:
    def method(*_: object) -> Any:
        raise trouble

    return method


def _crash(*_: object) -> Any:
    raise KeyboardInterrupt
