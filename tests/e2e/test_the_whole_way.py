"""Upload, train, register, generate, cancel: through the command line, with every process real.

The base is the small one of this repository, which the first start adds by itself.
"""

from __future__ import annotations

import json
import random
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from patina.client import Client
from sdxl.hashes import tail_hash
from tests.machine import Machine, machine_on

PICTURES = 10
STEPS = 4
SHORT = [
    f"steps={STEPS}",
    "batch_size=2",
    "lora.rank=4",
    "output_name=tiny-style",
    "trigger_word=tiny style",
    "optimizer.warmup_steps=0",
    "preview.prompts=[a red heart]",
    "preview.sampling_steps=2",
    "preview.every_steps=null",
    "held_out.every_steps=null",
    "held_out.timesteps=1",
    "checkpoint.every_steps=2",
    "measure_floor=false",
]
QUICK = ["preview.prompts=[]", "tracking.enabled=false"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine_on(tmp_path_factory.mktemp("e2e") / "home") as made:
        made.up()
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions beside them, a zip with one more and a stranger, and what is no picture at all."""
    made = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        _picture(index).save(made / f"{index}.png")
        (made / f"{index}.txt").write_text(f"a square number {index}")
    (made / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (made / "alone.txt").write_text("a caption for no image")
    (made / "README.md").write_text("not sent")
    _picture(99).save(made / "inside.webp", lossless=True)
    with zipfile.ZipFile(made / "more.zip", "w") as archive:
        archive.write(made / "inside.webp", "deep/inside.webp")
        archive.writestr("deep/inside.txt", "a square in a zip")
        archive.writestr("deep/notes.doc", "a stranger")
    (made / "inside.webp").unlink()
    return made


@pytest.fixture(scope="module")
def version(machine: Machine, folder: Path) -> dict[str, Any]:
    code, uploaded = machine.run(
        "datasets", "upload", str(folder), "--name", "squares", "--freeze", "--held-out-share=0.1"
    )
    assert code == 0, uploaded
    assert uploaded["dataset"]["images"] == PICTURES + 1
    assert [one["name"] for one in uploaded["left_out"]] == ["README.md"]
    frozen: dict[str, Any] = uploaded["version"]
    return frozen


@pytest.fixture(scope="module")
def run(machine: Machine, version: dict[str, Any]) -> dict[str, Any]:
    code, finished = machine.run(*_create("squares", *SHORT), "--watch")
    assert code == 0, finished
    trained: dict[str, Any] = finished
    return trained


class TestTheWholeWay:
    def test_the_base_of_this_repository_is_there(self, machine: Machine) -> None:
        _, bases = machine.ask("bases", "ls")
        assert [(base["name"], base["status"]) for base in bases["items"]] == [("emoji-xl", "ready")]

    def test_every_file_has_its_fate(self, machine: Machine, version: dict[str, Any]) -> None:
        _, ledger = machine.ask("datasets", "ledger", "squares")
        fates = {line["name"]: line["fate"] for line in ledger["items"]}
        assert [fates[f"{i}.png"] for i in range(PICTURES)] == ["used"] * PICTURES
        assert fates["broken.png"] == "rejected"
        assert {line["reason"] for line in ledger["items"] if line["name"] == "broken.png"} != {None}
        assert any(name.endswith("inside.webp") and fate == "used" for name, fate in fates.items())
        assert any(name.endswith("notes.doc") and fate == "rejected" for name, fate in fates.items())

    def test_the_same_content_is_the_same_version(
        self, machine: Machine, version: dict[str, Any], folder: Path
    ) -> None:
        code, again = machine.ask(
            "datasets", "upload", str(folder), "--name", "squares", "--freeze", "--held-out-share=0.1"
        )
        assert (code, again["version"]["digest"]) == (0, version["digest"])
        assert again["version"]["version"] == version["version"]

    def test_the_run_has_trained_and_said_so(self, machine: Machine, run: dict[str, Any]) -> None:
        assert (run["status"], run["step"], run["attempt"]) == ("succeeded", STEPS, 1)
        assert run["dataset"]["version"] == 1
        assert run["outcome"]["held_out_loss_after"] > 0
        assert Path(run["tracking"]).is_dir()

    def test_the_weights_are_registered_once_and_belong_to_the_base(
        self, machine: Machine, run: dict[str, Any], tmp_path: Path
    ) -> None:
        _, listed = machine.ask("weights", "ls")
        assert [(w["name"], w["version"], w["run"]) for w in listed["items"]] == [("tiny-style", 1, run["id"])]
        code, got = machine.run("weights", "download", "tiny-style@latest", "-o", str(tmp_path))
        assert (code, got["file"]) == (0, str(tmp_path / "tiny-style-1.safetensors"))
        with safe_open(got["file"], "pt") as file:
            header = json.loads(file.metadata()["patina.header"])
            keys = list(file.keys())
            assert len(keys) > 100
            assert all(key.startswith("lora_unet_") for key in keys), "not the form every UI reads"
        assert header["base_identity"] == run["base"]["identity"]
        assert header["dataset_version"] == run["dataset"]["digest"]
        assert (header["trigger_word"], header["steps"]) == ("tiny style", STEPS)

    def test_pictures_come_out_and_the_weights_change_them(
        self, machine: Machine, run: dict[str, Any], tmp_path: Path
    ) -> None:
        asked = ("generate", "tiny style, a square", "--steps=3", "--seed=7")
        files = {name: tmp_path / f"{name}.png" for name in ("base", "lora", "again")}
        for name, choice in (
            ("base", ("--base=emoji-xl",)),
            ("lora", ("--weights=tiny-style@latest:1",)),
            ("again", ("--weights=tiny-style@1",)),
        ):
            code, made = (machine.run if name == "lora" else machine.ask)(*asked, *choice, "-o", str(files[name]))
            assert code == 0, made
        pixels = {name: Image.open(file).convert("RGB").tobytes() for name, file in files.items()}
        assert Image.open(files["lora"]).size == (64, 64)
        assert pixels["lora"] == pixels["again"]
        assert pixels["lora"] != pixels["base"]

    @pytest.mark.slow
    def test_a_run_starts_from_registered_weights_and_what_it_makes_names_them(
        self, machine: Machine, run: dict[str, Any], tmp_path: Path
    ) -> None:
        code, child = machine.run(
            *_create("squares", *SHORT, *QUICK, "steps=2", "output_name=child", "init_from=tiny-style@1"),
            "--watch",
        )
        assert (code, child["status"]) == (0, "succeeded"), child
        assert child["outcome"]["held_out_loss_before"] == run["outcome"]["held_out_loss_after"]
        assert child["outcome"]["held_out_loss_after"] != child["outcome"]["held_out_loss_before"]
        _, listed = machine.ask("weights", "ls", "child")
        (made,) = listed["items"]
        _, got = machine.ask("weights", "download", "tiny-style@1", "-o", str(tmp_path))
        assert made["header"]["parent"] == {"name": "tiny-style@1", "sha256": tail_hash(Path(got["file"]))}


class TestCancel:
    @pytest.mark.slow
    def test_a_run_that_was_cancelled_registers_nothing_and_can_be_resumed(
        self, machine: Machine, run: dict[str, Any]
    ) -> None:
        code, started = machine.ask(*_create("squares", *SHORT, *QUICK, "steps=100000", "output_name=never"))
        assert code == 0, started
        assert started["status"] == "queued"
        with Client(machine.said["url"]) as client:
            assert any(message.event == "step" for message in client.run_events(started["id"]))
        code, _ = machine.run("runs", "cancel", started["id"])
        assert code == 0
        _, ended = machine.ask("runs", "watch", started["id"])
        assert (ended["status"], ended["reason"]) == ("cancelled", "cancelled")
        assert machine.ask("weights", "ls", "never")[1]["code"] == "not_found"
        _, resumed = machine.ask("runs", "resume", started["id"])
        assert resumed["status"] == "queued"
        with Client(machine.said["url"]) as client:
            said = client.run_events(started["id"])
            assert any(one.event == "started" and json.loads(one.data)["first_step"] == ended["step"] for one in said)
        assert machine.run("runs", "cancel", started["id"])[0] == 0
        assert machine.ask("runs", "watch", started["id"])[1]["step"] >= ended["step"] > 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["runs", "create", "--dataset=squares", "--base=emoji-xl", "--recipe=nothing"], "unknown_recipe"),
            (["runs", "create", "--dataset=squares", "--base=nothing", "--recipe=demo"], "unknown_base"),
            (["runs", "create", "--dataset=nothing", "--base=emoji-xl", "--recipe=demo"], "not_found"),
            (["generate", "x", "-o", "x.png", "--weights=nothing"], "not_found"),
            (["runs", "show", "run_0123456789abcdef"], "not_found"),
        ],
    )
    def test_what_is_not_there_is_said(
        self, machine: Machine, version: dict[str, Any], arguments: list[str], code: str
    ) -> None:
        assert machine.ask(*arguments)[1]["code"] == code

    def test_every_wrong_setting_is_listed(self, machine: Machine, version: dict[str, Any]) -> None:
        code, problem = machine.run(*_create("squares", "lora.rnak=4", "steps=none"))
        assert code == 1
        pointers = {error["pointer"].removeprefix("/overrides") for error in problem["errors"]}
        assert len(pointers) == 2

    def test_a_zip_that_is_none_is_refused(self, machine: Machine, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(b"no zip at all")
        code, answer = machine.ask("datasets", "upload", str(tmp_path / "x.zip"), "--name", "zips")
        assert (code, [one["problem"]["code"] for one in answer["refused"]]) == (1, ["not_a_zip"])


class TestTheEnd:
    def test_it_stops_and_leaves_no_process(self, machine: Machine, run: dict[str, Any]) -> None:
        assert machine.end(signal.SIGINT) == 0
        assert machine.processes() == []


def _create(dataset: str, *settings: str) -> list[str]:
    merged = {setting.partition("=")[0]: setting for setting in settings}
    return ["runs", "create", f"--dataset={dataset}", "--base=emoji-xl", "--recipe=demo", *merged.values()]


def _picture(seed: int) -> Image.Image:
    chosen = random.Random(seed)
    picture = Image.new("RGB", (64, 64), "white")
    left, top = chosen.randrange(32), chosen.randrange(32)
    picture.paste(tuple(chosen.randrange(256) for _ in range(3)), (left, top, left + 24, top + 24))
    return picture
