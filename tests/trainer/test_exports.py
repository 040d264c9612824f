"""A completed full fine-tune leaves the whole model in the forms that other programs load, and draws the same there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import trainer.exports
from benchmarks.random_sdxl import TINY, write_base
from contracts import events
from contracts.failures import InvalidInput
from contracts.rundir import Completed, Manifest, RunDir
from contracts.train import parse_config
from inference.engine import Engine, EngineRequest
from tests.trainer.test_room import no_room_for_more_than
from tests.trainer.tiny import events_of, make_recipe, outcome_of, train
from trainer.exports import export_bytes
from trainer.files import manifest_entry
from trainer.room import run_needs
from trainer.starting import INTERRUPTED

SHORT: dict[str, Any] = {
    "method": "full",
    "steps": 1,
    "gradient_accumulation_steps": 1,
    "optimizer__warmup_steps": 0,
    "optimizer__learning_rate": 1e-3,
    "preview__prompts": [],
    "held_out__every_steps": None,
    "measure_floor": False,
}
SIZE = 64
PROMPT = "a cat"


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its text encoders differ in width as SDXL's do: diffusers tells them apart in a single file by it."""
    folder = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TINY, "text_encoder_2", TINY["text_encoder_2"] | {"hidden_size": 48, "projection_dim": 48})
        fed = {"cross_attention_dim": 32 + 48, "projection_class_embeddings_input_dim": 48 + 6 * 8}
        patched.setitem(TINY, "unet", TINY["unet"] | fed)
        write_base(folder, size="tiny", dtype=torch.float16)
    return folder


@pytest.fixture(scope="module")
def exported(wide_base: Path, pictures: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("exported")
    texts = {"full__text_encoder": {}, "full__text_encoder_2": {}}
    recipe = make_recipe(folder / "r.yaml", wide_base, pictures, **SHORT, **texts, export={"precision": "fp32"})
    assert train(recipe, folder / "run", cache_dir) == 0
    return RunDir(folder / "run")


class TestACompletedRun:
    def test_draws_the_same_picture_in_the_stock_pipeline_from_the_file_and_from_the_folder(
        self, exported: RunDir, wide_base: Path
    ) -> None:
        engine = Engine(wide_base, dtype=torch.float32)
        asked = {"prompt": PROMPT, "seeds": (3,), "width": SIZE, "height": SIZE, "steps": 2}
        ours, before = engine.generate_unit(
            [
                EngineRequest(**asked, full_weights=exported.weights / "tiny.safetensors"),
                EngineRequest(**asked),
            ]
        )
        assert isinstance(ours, np.ndarray)
        assert np.abs(ours - before).max() > 1e-3
        single, folder = exported.exports / "tiny.safetensors", exported.exports / "tiny"
        for pipe in (
            StableDiffusionXLPipeline.from_single_file(
                single, config=str(wide_base), local_files_only=True, dtype=torch.float32
            ),
            StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32),
        ):
            pipe.set_progress_bar_config(disable=True)
            theirs = pipe(
                PROMPT,
                width=SIZE,
                height=SIZE,
                num_inference_steps=2,
                guidance_scale=5.0,
                generator=torch.Generator().manual_seed(3),
                output_type="np",
            ).images
            assert np.abs(theirs - ours).max() < 1e-4

    def test_says_in_its_outcome_where_they_are(self, exported: RunDir) -> None:
        outcome = outcome_of(exported.root)
        assert isinstance(outcome, Completed)
        assert outcome.exports == ("exports/tiny.safetensors", "exports/tiny")
        assert all((exported.root / path).exists() for path in outcome.exports)

    def test_names_every_file_of_them_in_its_manifest(self, exported: RunDir) -> None:
        manifest = Manifest.model_validate_json(exported.manifest.read_bytes())
        named = {entry.path for entry in manifest.files}
        assert {"weights/tiny.safetensors", "exports/tiny.safetensors", "exports/tiny/model_index.json"} <= named
        assert "exports/tiny/unet/diffusion_pytorch_model.safetensors" in named
        for entry in manifest.files:
            assert manifest_entry(exported.root, exported.root / entry.path) == entry
        assert not list(exported.root.rglob(".tmp-*"))

    def test_takes_the_room_that_was_asked_for_it(self, exported: RunDir, wide_base: Path) -> None:
        settings = parse_config({"method": "full", "export": {"precision": "fp32"}}).export
        expected = export_bytes(trainer.exports.base_files.open_base(wide_base), settings)
        weights = sum(file.stat().st_size for file in exported.exports.rglob("*.safetensors"))
        assert expected == pytest.approx(weights, rel=0.02)
        needs = run_needs(exported, parse_config({"method": "full"}), 0, 0, expected, held_out=False)
        assert needs[-1] == (exported.exports, expected, "the exports")


class TestEndingAgain:
    def test_an_end_that_was_cut_off_is_made_anew_and_leaves_nothing_half_done(
        self, wide_base: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", wide_base, pictures, **SHORT)
        run_dir = RunDir(tmp_path / "run")
        with monkeypatch.context() as patched:
            patched.setattr(trainer.exports, "export_folder", _killed)
            assert train(recipe, run_dir.root, cache_dir) == INTERRUPTED
        assert not run_dir.manifest.exists()
        assert [path.name for path in run_dir.exports.iterdir() if not path.name.startswith(".")] == [
            "tiny.safetensors"
        ]
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert sorted(path.name for path in run_dir.exports.iterdir()) == ["tiny", "tiny.safetensors"]
        with safe_open(run_dir.exports / "tiny.safetensors", framework="pt") as file:
            assert file.get_slice("model.diffusion_model.out.2.weight").get_dtype() == "F16"

    def test_a_run_with_more_steps_replaces_them_by_those_it_is_to_have_then(
        self, wide_base: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        steady = SHORT | {"optimizer__schedule": "constant"}
        recipe = make_recipe(tmp_path / "r.yaml", wide_base, pictures, **steady)
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        before = manifest_entry(run_dir.root, run_dir.exports / "tiny.safetensors")
        assert train(recipe, run_dir.root, cache_dir, "steps=2", "export.layouts=[single-file]") == 0
        assert [path.name for path in run_dir.exports.iterdir()] == ["tiny.safetensors"]
        assert manifest_entry(run_dir.root, run_dir.exports / "tiny.safetensors").sha256 != before.sha256


class TestWhatCannotBeWritten:
    def test_numbers_fp16_cannot_hold_cost_the_export_and_not_the_run(
        self, wide_base: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        base = tmp_path / "base"
        shutil.copytree(wide_base, base)
        file = base / "vae" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors["decoder.conv_out.bias"] = tensors["decoder.conv_out.bias"].float() + 1e6
        save_file(tensors, file, {"format": "pt"})
        recipe = make_recipe(tmp_path / "r.yaml", base, pictures, **SHORT, export__layouts=["diffusers"])
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert isinstance(outcome_of(run_dir.root), Completed)
        (warned,) = (event.message for event in events_of(run_dir.root) if isinstance(event, events.Warned))
        assert "the diffusers export was not written" in warned
        assert "no finite numbers" in warned
        assert [*run_dir.exports.iterdir()] == []

    def test_a_disk_that_fills_up_meanwhile_costs_the_export_and_not_the_run(
        self, wide_base: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = trainer.exports._write

        def filling_up(*given: Any) -> None:
            with no_room_for_more_than(10_000):
                write(*given)

        monkeypatch.setattr(trainer.exports, "_write", filling_up)
        recipe = make_recipe(tmp_path / "r.yaml", wide_base, pictures, **SHORT)
        run_dir = RunDir(tmp_path / "run")
        assert train(recipe, run_dir.root, cache_dir) == 0
        warned = [event.message for event in events_of(run_dir.root) if isinstance(event, events.Warned)]
        assert [message.partition(":")[0] for message in warned] == [
            "the single-file export was not written",
            "the diffusers export was not written",
        ]
        assert (run_dir.weights / "tiny.safetensors").is_file()
        assert [*run_dir.exports.iterdir()] == []


class TestTheSetting:
    @pytest.mark.parametrize(
        ("values", "pointer"),
        [
            ({"export": {"layouts": ["diffusers"]}}, "/export"),
            ({"method": "full", "export": {"layouts": ["diffusers", "diffusers"]}}, "/export/layouts"),
        ],
    )
    def test_is_refused_where_it_says_nothing(self, values: dict[str, Any], pointer: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config(values)
        assert [error.pointer for error in caught.value.errors] == [pointer]


def _killed(*given: object) -> None:
    raise KeyboardInterrupt
