"""What spares memory changes no result: checkpointing, encoders that leave; and a broken VAE ends the run by name."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from contracts.events import Event, StepDone
from contracts.rundir import Failed
from tests.trainer.tiny import make_recipe, outcome_of, train, weights_of
from trainer.report import EventFile

ENCODERS = (AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection)


class TestGradientCheckpointing:
    def test_changes_no_bit_dropout_included(
        self, finished: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "recipe.yaml", base_dir, pictures, gradient_checkpointing=True)
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        plain, checkpointed = weights_of(finished), weights_of(tmp_path / "run")
        assert plain.keys() == checkpointed.keys()
        assert all(torch.equal(plain[key], checkpointed[key]) for key in plain)


class TestEncoders:
    @pytest.mark.parametrize(("option", "stay"), [((), False), (("--no-cache",), True)])
    def test_leave_memory_once_everything_is_cached(
        self,
        option: tuple[str, ...],
        stay: bool,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before, during = _encoders(), []
        write = EventFile.__call__

        def counting(self: EventFile, event: Event) -> None:
            write(self, event)
            if isinstance(event, StepDone):
                during.append(_encoders() - before)

        monkeypatch.setattr(EventFile, "__call__", counting)
        recipe = make_recipe(tmp_path / "recipe.yaml", base_dir, pictures, steps=2, optimizer__warmup_steps=0)
        assert train(recipe, tmp_path / "run", cache_dir, *option) == 0
        assert [count > 0 for count in during] == [stay, stay]


class TestABrokenVae:
    def test_stops_the_run_with_the_pictures_name_before_any_step(
        self, base_dir: Path, pictures: Path, tmp_path: Path
    ) -> None:
        broken = tmp_path / "base"
        shutil.copytree(base_dir, broken)
        file = broken / "vae" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors["encoder.conv_in.weight"].fill_(float("inf"))
        save_file(tensors, file, {"format": "pt"})
        recipe = make_recipe(tmp_path / "recipe.yaml", broken, pictures)
        assert train(recipe, tmp_path / "run", tmp_path / "cache") == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.code == "nan_latent"
        assert ".png" in outcome.message


def _encoders() -> int:
    gc.collect()
    return sum(isinstance(thing, ENCODERS) for thing in gc.get_objects())
