"""The three Celery entry points as real processes: what they load, how they hear, how they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import embedded
from broker.settings import BrokerSettings
from catalog.workers import service as workers
from contracts.failures import FailureCode
from tests.worker.conftest import captions, picture, upload
from tests.worker.running import running
from worker.station import Station

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "wandb")


@pytest.fixture
def broker(home: Path) -> Iterator[embedded.EmbeddedBroker]:
    started = embedded.start(BrokerSettings(home=home))
    yield started
    started.stop()


def loaded(lines: list[str]) -> set[str]:
    """Top-level packages the process imported, by its own account (python -X importtime)."""
    imports = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    return {name.partition(".")[0] for name in imports}


def control_plane(lines: list[str]) -> set[str]:
    """What a worker loaded, when its account is one."""
    packages = loaded(lines)
    assert {"celery", "sqlalchemy", "worker", "catalog"} <= packages
    return packages


class TestWhatIsLoaded:
    @pytest.mark.slow
    def test_the_train_worker_never_loads_torch(self, home: Path, broker: embedded.EmbeddedBroker) -> None:
        with running("train", home, PYTHONPROFILEIMPORTTIME="1") as worker:
            worker.wait_for("ready.")
            assert worker.end() == 0
            assert not control_plane(worker.lines) & set(HEAVY)

    @pytest.mark.slow
    def test_the_generate_worker_does(self, home: Path, broker: embedded.EmbeddedBroker) -> None:
        with running("generate", home, PYTHONPROFILEIMPORTTIME="1") as worker:
            worker.wait_for("ready.")
            assert worker.end() == 0
            assert {"torch", "diffusers", "inference"} <= loaded(worker.lines)


class TestHearing:
    def test_a_ring_starts_the_work_at_once_which_loads_no_torch(
        self, station: Station, home: Path, broker: embedded.EmbeddedBroker
    ) -> None:
        # Looking by itself only once an hour, it can only have heard the ring.
        with running("light", home, PATINA_SWEEP_S="3600", PYTHONPROFILEIMPORTTIME="1") as worker:
            worker.wait_for("ready.")
            dataset = upload(station, {"a.png": picture(1)})
            assert worker.wait_until(lambda: captions(station, dataset))
            assert worker.end() == 0
            assert not control_plane(worker.lines) & set(HEAVY)

    def test_without_a_broker_the_work_is_found_all_the_same_by_a_worker_that_is_in_the_table_while_it_runs(
        self, station: Station, home: Path
    ) -> None:
        dataset = upload(station, {"a.png": picture(1)})
        with running("light", home) as worker:
            assert worker.wait_until(lambda: captions(station, dataset))
            assert worker.wait_until(lambda: "light" in roles(station))
            later = upload(station, {"b.png": picture(2)}, "later")
            assert worker.wait_until(lambda: captions(station, later))
            assert worker.end() == 0
        assert "light" not in roles(station)

    @pytest.mark.slow
    def test_killed_in_the_middle_it_goes_on_where_it_was(self, station: Station, home: Path) -> None:
        dataset = upload(station, {f"{n}.png": picture(n) for n in range(40)})
        with running("light", home) as worker:
            assert worker.wait_until(lambda: captions(station, dataset))
            worker.kill()
        with running("light", home) as worker:
            assert worker.wait_until(lambda: len(captions(station, dataset)) == 40)
            # The first may have read them all, and a TERM while the second starts would end it at once.
            later = upload(station, {"b.png": picture(41)}, "later")
            assert worker.wait_until(lambda: captions(station, later))
            assert worker.end() == 0


class TestStarting:
    @pytest.mark.slow
    def test_a_home_that_cannot_be_written_ends_it_with_words(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with running("light", tmp_path / "file" / "home") as worker:
            assert worker.process.wait(60) == 1
            worker.wait_for(FailureCode.HOME_UNUSABLE)


def roles(station: Station) -> set[str]:
    with station.database.reading() as session:
        return {worker.role for worker in workers.alive_workers(session)}
