"""`patina weights download --dialect`: the published file in another form, made by the real converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from patina.cli import main
from patina.client import Client
from sdxl.adapter import AdapterModule
from sdxl.dialects import read, write

MODULES = {
    f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_{part}": AdapterModule(
        torch.ones(2, 6), torch.ones(5, 2), 1.5
    )
    for part in "qk"
}


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has one LoRA, in kohya's form."""

    def send(self: Client, name: str, version: str, target: Path) -> int:
        write(target, MODULES, {"ss_output_name": "style"}, "kohya")
        return target.stat().st_size

    monkeypatch.setattr(Client, "weights_version", lambda *_: {"version": 3, "sha256": "a" * 64})
    monkeypatch.setattr(Client, "download_weights", send)


def run(capfd: pytest.CaptureFixture[str], *words: str) -> Any:
    main(["weights", "download", "style", *words, "--json"])
    return json.loads(capfd.readouterr().out)


def test_the_form_is_the_one_asked_for_and_what_others_will_misread_is_told(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = run(capfd, "-o", str(tmp_path), "--dialect", "diffusers")
    assert told["file"] == str(tmp_path / "style-3.safetensors")
    found = read(tmp_path / "style-3.safetensors")
    assert (found.dialect, found.alphas) == ("diffusers", dict.fromkeys(MODULES, 1.5))
    assert found.metadata["ss_output_name"] == "style"
    assert "ComfyUI" in told["notes"][0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["style-3.safetensors"]


@pytest.mark.parametrize("words", [(), ("--dialect", "kohya")])
def test_a_place_that_cannot_be_is_named(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    told = run(capfd, "-o", str(tmp_path / "file" / "x.safetensors"), *words)
    assert told["code"] == "invalid_input"
    assert "file/x.safetensors cannot be written: " in told["detail"]


def test_pefts_is_a_folder_that_is_never_written_over(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "style-3").mkdir()
    told = run(capfd, "-o", str(tmp_path), "--dialect", "peft")
    assert "already" in told["detail"]
    assert [*(tmp_path / "style-3").iterdir()] == []


@pytest.mark.slow
def test_pefts_folder_is_not_put_into_itself_when_it_is_asked_for_again(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    assert run(capfd, "-o", str(target), "--dialect", "peft")["file"] == str(target)
    told = run(capfd, "-o", str(target), "--dialect", "peft")
    assert told["code"] == "conflict"
    assert str(target) in told["detail"]
    assert [entry.name for entry in target.iterdir()] == ["unet"]
