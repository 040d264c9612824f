"""Generating with a real engine on a tiny random SDXL, a real database and a real store."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.random_sdxl import write_base
from catalog import jobs
from catalog.bases import service as bases
from catalog.generations import service as generations
from catalog.generations.service import GenerationView
from catalog.jobs import Job, Queue
from catalog.registry import service as registry
from catalog.registry.service import Publication
from catalog.workers import service as workers
from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode
from contracts.generate import GenerationRequest, WeightsChoice
from inference.engine import Engine
from sdxl.base import describe, load_base
from sdxl.formats import save_adapter
from sdxl.lora import target_modules
from tests.worker.conftest import OWNER
from tests.worker.runs import add_base, freeze_pictures, queue_run
from worker.doorbell import Shift
from worker.engine_room import EngineRoom
from worker.generate import Bench
from worker.settings import WorkerSettings
from worker.station import Station, open_station
from worker.weights_files import WeightsFiles


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, known_shapes: Path) -> Path:
    """A home with a tiny random SDXL and weights named style for it, to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    write_base(folder / "base", size="tiny", dtype=torch.float16)
    station = open_station("test", settings=WorkerSettings(home=folder / "home", device="cpu"))
    described = describe(folder / "base", cache_dir=known_shapes)
    add_base(station, folder / "base", described)
    freeze_pictures(station)
    register_weights(station, folder, described.identity)
    station.close()
    return folder / "home"


def register_weights(station: Station, folder: Path, identity: str) -> None:
    layers = target_modules(load_base(folder / "base", dtype=torch.float32, components={"unet"}).unet, "attn-ff")
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, layer in layers.items():
        out_features, in_features = layer.weight.shape
        state[f"unet.{name}.lora_A.weight"] = torch.randn(2, in_features, generator=generator)
        state[f"unet.{name}.lora_B.weight"] = torch.randn(out_features, 2, generator=generator) * 0.1
    header = AdapterHeader(
        name="style",
        method="lora",
        base_identity=identity,
        config_digest="b" * 64,
        dataset_version="c" * 64,
        trigger_word="tok",
        rank=2,
        alpha=2.0,
        targets="attn-ff",
        resolution_px=64,
        prediction_type="epsilon",
        steps=20,
        created="2026-01-01T00:00:00+00:00",
    )
    save_adapter(folder / "style.safetensors", state, header)
    sha256 = station.blobs.put_file("weights/style", folder / "style.safetensors")
    queue_run(station)
    with station.database.session() as session:
        (claim,) = jobs.claim(session, Queue.TRAIN, "test", 60)
        registry.publish(session, claim, Publication(header, "weights/style", sha256, 1, {}))
        jobs.finish(session, claim.job_id, claim.fence)


@pytest.fixture
def station(home: Path, prepared: Path) -> Iterator[Station]:
    shutil.copytree(prepared, home)
    settings = WorkerSettings(home=home, device="cpu", lease_s=30, heartbeat_s=0.02, idle_unload_s=0)
    station = open_station("generate", settings.devices, settings)
    yield station
    station.close()


class Worker:
    """The engine's thread of a generate worker, without the thread."""

    def __init__(self, station: Station) -> None:
        self.shift = Shift()
        self.room = EngineRoom(station)
        files = WeightsFiles(station.blobs, station.settings.cache_dir)
        self.bench = Bench(station, self.room, files, self.shift)

    def work(self) -> bool:
        return self.bench.work()


@pytest.fixture
def worker(station: Station) -> Iterator[Worker]:
    worker = Worker(station)
    yield worker
    worker.room.leave()


def ask(station: Station, prompt: str = "a cat", weights: float | None = None, **changes: Any) -> str:
    """Queue a generation, with the weights at a strength or without any; returns its id."""
    chosen = () if weights is None else (WeightsChoice(weights="style", scale=weights),)
    values: dict[str, Any] = {"prompt": prompt, "steps": 2, "seed": 7, "weights": chosen, "width": 32, "height": 32}
    with station.database.session() as session:
        return generations.create(session, OWNER, GenerationRequest(**(values | changes))).id


def view(station: Station, generation_id: str) -> GenerationView:
    with station.database.reading() as session:
        return generations.read(session, OWNER, generation_id)


def status(station: Station, generation_id: str) -> str:
    return view(station, generation_id).generation.status


def pictures(station: Station, generation_id: str) -> list[bytes]:
    """The pixels of a generation's pictures."""
    stored = [station.blobs.get_bytes(image.blob_key) for image in view(station, generation_id).images]
    return [Image.open(io.BytesIO(data)).tobytes() for data in stored]


def expire_leases(station: Station) -> None:
    with station.database.session() as session:
        session.query(Job).filter(Job.state == "leased").update({"fence": Job.fence + 1})


class TestPictures:
    def test_are_what_the_engine_makes_stored_by_hash_and_say_how_they_were_made(
        self, station: Station, worker: Worker
    ) -> None:
        generation = ask(station, "a cät", weights=0.5, images=2)
        assert worker.work()
        seen = view(station, generation)
        assert seen.generation.status == "succeeded"
        assert [image.seed for image in seen.images] == [7, 8]
        data = station.blobs.get_bytes(seen.images[1].blob_key)
        assert hashlib.sha256(data).hexdigest() == seen.images[1].sha256
        words = json.loads(Image.open(io.BytesIO(data)).info["patina"])
        assert (words["prompt"], words["seed"], words["base"]) == ("a cät", 8, "tiny-base")
        assert [(w["name"], w["version"], w["scale"]) for w in words["weights"]] == [("style", 1, 0.5)]
        assert not worker.work()

    def test_do_not_depend_on_who_else_is_in_the_batch(self, station: Station, worker: Worker) -> None:
        alone = ask(station, weights=1.0)
        assert worker.work()
        together = [ask(station), ask(station, weights=1.0), ask(station, "a dog", weights=-1.0)]
        assert worker.work()
        made = [pictures(station, generation)[0] for generation in together]
        assert made[1] == pictures(station, alone)[0]
        assert len(set(made)) == 3, "base, weights and another prompt must differ"

    def test_weights_at_scale_zero_are_the_base(self, station: Station, worker: Worker) -> None:
        base, zero = ask(station), ask(station, weights=0.0)
        assert worker.work()
        assert pictures(station, base) == pictures(station, zero)


class TestFailures:
    def test_a_weights_file_that_was_changed_is_refused_and_spoils_no_other(
        self, station: Station, worker: Worker
    ) -> None:
        station.blobs.put_bytes("weights/style", b"something else")
        bad, good = ask(station, weights=1.0), ask(station)
        assert worker.work()
        assert status(station, good) == "succeeded"
        failed = view(station, bad).generation
        assert (failed.status, failed.failure_code) == ("failed", FailureCode.WEIGHTS_UNREADABLE)
        assert "style@1" in str(failed.failure_message)

    def test_weights_that_cannot_be_reached_just_now_spoil_no_other(
        self, station: Station, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Away(Exception):
            """As botocore's EndpointConnectionError: no OSError."""

        def away(*_: object) -> Path:
            raise Away("secret address")

        monkeypatch.setattr(WeightsFiles, "path", away)
        bad, good = ask(station, weights=1.0), ask(station)
        assert worker.work()
        assert status(station, good) == "succeeded"
        failed = view(station, bad).generation
        assert (failed.status, failed.failure_code) == ("failed", FailureCode.INTERNAL)
        assert failed.failure_reference
        assert "secret" not in str(failed.failure_message) + str(failed.failure_hint)

    def test_an_unknown_error_shows_a_reference_and_spoils_no_other(
        self, station: Station, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Engine.generate

        def sometimes(self: Engine, requests: Any, **options: Any) -> Any:
            if any(request.prompt == "bad" for request in requests):
                raise RuntimeError("secret detail")
            return real(self, requests, **options)

        monkeypatch.setattr(Engine, "generate", sometimes)
        bad, good = ask(station, "bad"), ask(station)
        assert worker.work()
        assert status(station, good) == "succeeded"
        failed = view(station, bad).generation
        assert (failed.status, failed.failure_code) == ("failed", FailureCode.INTERNAL)
        assert failed.failure_reference
        assert "secret" not in str(failed.failure_message) + str(failed.failure_hint)

    def test_a_base_that_is_gone_fails_its_generations(self, station: Station, worker: Worker) -> None:
        generation = ask(station)
        with station.database.session() as session:
            session.query(bases.Base).update({"source": str(station.settings.home_dir / "nowhere")})
        assert worker.work()
        assert view(station, generation).generation.failure_code == FailureCode.BASE_UNREADABLE


class TestStopping:
    def test_a_cancelled_generation_ends_between_two_steps(self, station: Station, worker: Worker) -> None:
        generation = ask(station, steps=150)
        thread = threading.Thread(target=worker.work)
        thread.start()
        while status(station, generation) != "running":
            thread.join(0.02)
        with station.database.session() as session:
            generations.cancel(session, OWNER, generation)
        thread.join(120)
        assert status(station, generation) == "cancelled"
        assert view(station, generation).images == []

    def test_a_draining_worker_gives_back_what_it_has_not_made(self, station: Station, worker: Worker) -> None:
        generation = ask(station)
        worker.shift.drain()
        worker.work()
        assert status(station, generation) == "queued"
        with station.database.reading() as session:
            job = session.query(Job).filter_by(subject_id=generation).one()
            assert (job.state, job.failures, job.preemptions) == ("queued", 0, 1)

    def test_a_worker_that_was_given_up_writes_nothing(
        self, station: Station, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Engine.generate

        def slow(self: Engine, *arguments: Any, **options: Any) -> Any:
            made = real(self, *arguments, **options)
            expire_leases(station)
            return made

        monkeypatch.setattr(Engine, "generate", slow)
        generation = ask(station)
        assert worker.work()
        assert status(station, generation) == "running"
        assert view(station, generation).images == []


class TestDevice:
    def test_a_generation_waits_while_a_run_holds_the_device_and_nothing_is_counted(
        self, station: Station, worker: Worker
    ) -> None:
        queue_run(station)
        with station.database.session() as session:
            run = workers.claim_with_device(session, Queue.TRAIN, "trainer", station.host, 60)
        assert run is not None
        generation = ask(station)
        assert not worker.work()
        assert status(station, generation) == "queued"
        assert view(station, generation).waiting_for == "device"
        with station.database.session() as session:
            job = session.query(Job).filter_by(subject_id=generation).one()
            assert (job.fence, job.preemptions) == (0, 0)
            jobs.finish(session, run.job_id, run.fence)
        assert worker.work()
        assert status(station, generation) == "succeeded"

    def test_an_idle_engine_leaves_when_a_run_waits(self, station: Station, worker: Worker) -> None:
        ask(station)
        assert worker.work()
        assert not worker.work()
        assert held_by(station) == "engine", "nobody waits: it stays loaded"
        queue_run(station)
        assert claim_run(station) is None
        worker.room.renew()
        assert not worker.work()
        assert held_by(station) is None
        assert claim_run(station) is not None

    def test_a_lost_lease_is_noticed_and_the_device_left(self, station: Station, worker: Worker) -> None:
        ask(station)
        assert worker.work()
        with station.database.session() as session:
            workers.release_engine_slot(session, station.host, station.worker_id)
        queue_run(station)
        run = claim_run(station)
        assert run is not None
        worker.room.renew()
        assert worker.room.lost.is_set()
        assert not worker.work()
        with station.database.session() as session:
            jobs.finish(session, run.job_id, run.fence)
        later = ask(station)
        assert worker.work()
        assert status(station, later) == "succeeded"


class TestBases:
    def test_are_described_for_the_catalog(
        self, station: Station, worker: Worker, prepared: Path, known_shapes: Path
    ) -> None:
        kept = station.settings.cache_dir / "identities"
        kept.mkdir(parents=True)
        for profile in known_shapes.glob("profile-*"):
            shutil.copy(profile, kept)
        with station.database.session() as session:
            bases.request_add(session, "again", str(prepared.parent / "base"), None)
        assert worker.work()
        with station.database.reading() as session:
            added = bases.read_ready(session, OWNER, "again")
            assert added.identity == bases.read_ready(session, OWNER, "tiny-base").identity
        assert held_by(station) is None, "describing needs no device"

    def test_that_cannot_be_read_say_why(self, station: Station, worker: Worker, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with station.database.session() as session:
            bases.request_add(session, "empty", str(tmp_path / "empty"), None)
        assert worker.work()
        with station.database.reading() as session:
            failed = bases.read(session, OWNER, "empty")
        assert (failed.status, failed.failure_code) == ("failed", FailureCode.BASE_UNREADABLE)


def held_by(station: Station) -> str | None:
    with station.database.reading() as session:
        (slot,) = workers.list_slots(session)
        return slot.held_by


def claim_run(station: Station) -> jobs.Claim | None:
    with station.database.session() as session:
        return workers.claim_with_device(session, Queue.TRAIN, "trainer", station.host, 60)
