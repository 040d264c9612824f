"""The core promise of training, with real processes: whatever is killed, the run ends in the same weights, once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from benchmarks.random_sdxl import write_base
from catalog.bases import service as bases
from catalog.runs import service as runs
from contracts.rundir import OUTCOME, Completed, RunDir
from sdxl.base import describe
from tests.trainer.fixtures import one_thread
from tests.worker.conftest import OWNER
from tests.worker.running import Running, running
from tests.worker.runs import add_base, freeze_pictures, queue_run, run_of, weights_of
from trainer.cli import main
from worker.processes import marked
from worker.settings import WorkerSettings
from worker.station import Station, open_station

__all__ = ["one_thread"]

FAST = {"PATINA_TERM_GRACE_S": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, known_shapes: Path) -> Path:
    """A home with a tiny random SDXL and a frozen dataset, to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    base = folder / "base"
    write_base(base, size="tiny", dtype=torch.float16)
    station = open_station("test", settings=WorkerSettings(home=folder / "home", device="cpu"))
    add_base(station, base, describe(base, cache_dir=known_shapes))
    freeze_pictures(station)
    station.close()
    return folder / "home"


@pytest.fixture
def station(home: Path, prepared: Path) -> Iterator[Station]:
    shutil.copytree(prepared, home)
    station = open_station("test", settings=WorkerSettings(home=home, device="cpu"))
    yield station
    assert marked(home.resolve()) == []
    station.close()


def finish(worker: Running, station: Station, run_id: str) -> None:
    ended = ("succeeded", "failed", "cancelled")
    assert worker.wait_until(lambda: run_of(station, run_id).status in ended, 240)
    run = run_of(station, run_id)
    log = RunDir(station.settings.runs_dir / run_id).log
    said = log.read_text() if log.exists() else ""
    assert run.status == "succeeded", f"{run.failure_message}\n{said[-3000:]}\n{''.join(worker.lines[-40:])}"


def uninterrupted(station: Station, run_id: str, folder: Path) -> tuple[Completed, dict[str, torch.Tensor]]:
    """The same run trained by the trainer alone, in this process, without worker, launcher or interruption."""
    done, alone = RunDir(station.settings.runs_dir / run_id), RunDir(folder / "alone")
    with station.database.reading() as session:
        base = bases.read_by_id(session, OWNER, run_of(station, run_id).base_id)
    where = ("--run-dir", alone.root, "--base-dir", base.source, "--dataset-dir", done.dataset)
    words = (done.config, *where, "--cache-dir", station.settings.cache_dir)
    assert main([str(word) for word in words]) == 0
    outcome = OUTCOME.validate_json(alone.outcome.read_bytes())
    assert isinstance(outcome, Completed)
    return outcome, load_file(next(alone.weights.glob("*.safetensors")))


def losses(station: Station, run_id: str) -> list[tuple[int, float]]:
    with station.database.reading() as session:
        return [(event.step, event.loss) for event in runs.metrics(session, OWNER, run_id).steps]


def checkpoints(station: Station, run_id: str) -> list[Path]:
    folder = RunDir(station.settings.runs_dir / run_id).checkpoints
    return [path for path in folder.glob("step-*") if (path / "manifest.json").exists()]


class TestKilledWorker:
    @pytest.mark.slow
    def test_a_run_ends_in_the_same_weights_once(self, station: Station, home: Path, tmp_path: Path) -> None:
        run_id = queue_run(station)
        # A lease nobody would wait for: its successor on the same machine sees that the process is gone.
        with running("train", home, **FAST | {"PATINA_LEASE_S": "3600"}) as worker:
            assert worker.wait_until(lambda: checkpoints(station, run_id), 240), "".join(worker.lines[-60:])
            orphans = marked(home.resolve())
            assert orphans
            # Stopped in the middle, the orphan cannot run to its end before its successor comes.
            for orphan in orphans:
                os.kill(orphan.pid, signal.SIGSTOP)
            worker.kill()
        assert run_of(station, run_id).status in ("preparing", "training")
        assert weights_of(station, run_id) == []
        with running("train", home, **FAST) as worker:
            finish(worker, station, run_id)
            assert worker.end() == 0
        run = run_of(station, run_id)
        assert run.attempt == 2
        (weights,) = weights_of(station, run_id)
        outcome, expected = uninterrupted(station, run_id, tmp_path)
        found = load(station.blobs.get_bytes(weights.blob_key))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert any(expected[key].any() for key in expected if "lora_up" in key), "nothing was learned"
        assert run.outcome is not None
        assert run.outcome["loss_last"] == outcome.loss_last
        assert [step for step, _ in losses(station, run_id)] == list(range(1, run.steps + 1))

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_told_to_stop_it_gives_the_run_back_and_the_next_ends_in_the_same_weights(
        self, station: Station, home: Path, tmp_path: Path
    ) -> None:
        run_id = queue_run(station, {"steps": 150, "checkpoint.every_steps": None})
        with running("train", home, **FAST) as worker:
            assert worker.wait_until(lambda: run_of(station, run_id).step >= 1, 240), "".join(worker.lines[-60:])
            assert worker.end() == 0
        run = run_of(station, run_id)
        assert (run.status, run.reason) == ("queued", "preempted")
        with running("train", home, **FAST) as worker:
            finish(worker, station, run_id)
            assert worker.end() == 0
        (weights,) = weights_of(station, run_id)
        _, expected = uninterrupted(station, run_id, tmp_path)
        found = load(station.blobs.get_bytes(weights.blob_key))
        assert all(torch.equal(found[key], expected[key]) for key in expected)
