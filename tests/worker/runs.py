"""A base, a frozen dataset and a queued run in the catalog; and a stand-in for the trainer that takes no time."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from catalog.bases import service as bases
from catalog.datasets import service as datasets
from catalog.jobs import Job
from catalog.registry import service as registry
from catalog.registry.models import Weights
from catalog.runs import service as runs
from catalog.runs.models import Run
from contracts.base import BaseDescription, Family
from contracts.run import RunRequest
from tests.profiles import small_profile
from tests.worker.conftest import OWNER, picture, upload
from worker import light
from worker.decode import Decoder
from worker.doorbell import Shift
from worker.launcher import Launch
from worker.station import Station

IDENTITY = "a" * 64
RECIPE: dict[str, Any] = {
    "output_name": "tiny",
    "steps": 20,
    "batch_size": 2,
    "precision": "fp32",
    "trigger_word": "tok",
    "lora": {"rank": 2, "alpha": 2.0, "targets": "attn"},
    "checkpoint": {"every_steps": 2},
    "preview": {"prompts": ["a cat"], "sampling_steps": 1},
    "held_out": {"timesteps": 1},
    "tracking": {"enabled": False},
}


def description(identity: str = IDENTITY) -> BaseDescription:
    """A base nobody loads."""
    return BaseDescription(
        family=Family.SDXL,
        identity=identity,
        vae_identity="b" * 64,
        native_px=64,
        prediction_type="epsilon",
        latent_channels=4,
        vae_factor=8,
        profile=small_profile(),
    )


def add_base(station: Station, source: Path, described: BaseDescription | None = None) -> None:
    with station.database.session() as session:
        bases.add(session, "tiny-base", str(source), None, described or description())


def freeze_pictures(station: Station, count: int = 6) -> None:
    """A dataset named pictures with captions, read and frozen."""
    files = {f"{n}.png": picture(n) for n in range(count)} | {f"{n}.txt": b"picture %d" % n for n in range(count)}
    dataset = upload(station, files)
    with Decoder() as decoder:
        while light.work(station, decoder, Shift()):
            pass
    with station.database.session() as session:
        datasets.freeze(session, OWNER, dataset, held_out_share=0.2)


def queue_run(
    station: Station, overrides: Mapping[str, Any] | None = None, fed_by: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A run of RECIPE, waiting; returns its id."""
    folder = station.settings.home_dir / "recipes"
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    data = {"datasets": fed_by} if fed_by else {"dataset": "pictures"}
    wanted = data | {"base": "tiny-base", "recipe": "tiny", "overrides": dict(overrides or {})}
    request = RunRequest.model_validate(wanted)
    with station.database.session() as session:
        return runs.create(session, OWNER, request, folder).id


def run_of(station: Station, run_id: str) -> Run:
    with station.database.reading() as session:
        return runs.read(session, OWNER, run_id)


def job_of(station: Station, run_id: str) -> Job:
    with station.database.reading() as session:
        return session.query(Job).filter_by(subject_id=run_id).one()


def weights_of(station: Station, run_id: str) -> list[Weights]:
    with station.database.reading() as session:
        return list(registry.of_run(session, OWNER, run_id))


STAND_IN = """
import json, hashlib, os, signal, struct, sys, time
from pathlib import Path
run = Path(sys.argv[1]); base_identity = sys.argv[2]; digest = sys.argv[3]
for folder in ("previews", "weights", "control", "checkpoints"):
    (run / folder).mkdir(exist_ok=True)
def say(**event):
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"at": time.time(), **event}) + "\\n")
def step(n):
    say(type="step", step=n, loss=1 / n, loss_smooth=1 / n, learning_rate=0.1, grad_norm=1.0, images_per_s=9.0)
def started(first=0):
    say(type="started", steps=20, first_step=first, images=5, held_out_images=1, trainable_parameters=9, processes=1,
        device="cpu", exact=True)
def preview(name):
    (run / "previews" / name).write_bytes(b"png " + name.encode())
    say(type="preview", step=1, file=name, prompt="a cat", seed=0)
def end(**outcome):
    (run / "outcome.json").write_text(json.dumps(outcome))
def complete(identity=base_identity, steps=20, exported=False):
    header = {"name": "tiny", "method": "lora", "base_identity": identity, "config_digest": digest,
        "dataset_version": "d" * 64, "trigger_word": "tok", "rank": 2, "alpha": 2.0, "targets": "attn",
        "resolution_px": 64, "prediction_type": "epsilon", "steps": steps, "created": "2026-01-01T00:00:00+00:00"}
    words = json.dumps({"__metadata__": {"patina.header": json.dumps(header)}}).encode()
    data = struct.pack("<Q", len(words)) + words
    (run / "weights" / "tiny.safetensors").write_bytes(data)
    file = {"path": "weights/tiny.safetensors", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = [file]
    if exported:
        (run / "exports").mkdir()
        more = data + bytes(8)
        (run / "exports" / "tiny.safetensors").write_bytes(more)
        sha256 = hashlib.sha256(more).hexdigest()
        files.insert(0, {"path": "exports/tiny.safetensors", "bytes": len(more), "sha256": sha256})
    end(state="completed", step=steps, train_seconds=2.0, loss_first=1.0, loss_last=0.5, held_out_loss_before=1.0,
        held_out_loss_after=0.4, tracking="off")
    (run / "manifest.json").write_text(json.dumps({"step": steps, "config_digest": digest,
        "base_identity": identity, "dataset_digest": "d" * 64, "files": files}))
def stop_asked():
    return (run / "control" / "stop").exists()
def wait_for_stop():
    while not stop_asked():
        time.sleep(0.02)
"""


def stand_in(station: Station, run_id: str, script: str, identity: str = IDENTITY) -> Any:
    """A ``launcher.command`` that starts ``script`` (with STAND_IN's words) in place of the trainer."""
    digest = run_of(station, run_id).config_digest
    text = STAND_IN + textwrap.dedent(script)

    def command(launch: Launch) -> list[str]:
        return [sys.executable, "-c", text, str(launch.run_dir.root), identity, digest]

    return command
