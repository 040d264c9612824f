"""What spares memory: checkpointing, fused attention, encoders that leave; and a broken VAE ends the run by name."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.modeling_clip import CLIPAttention

from contracts.events import Event, StepDone
from contracts.rundir import Failed
from contracts.train import parse_config
from sdxl.base import TEXT_COMPONENTS, load_base
from sdxl.conditioning import encode_prompts
from tests.trainer.tiny import make_recipe, outcome_of, train, weights_of
from trainer.report import EventFile
from trainer.weights import load_trainable

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


class TestAttention:
    @pytest.mark.parametrize("changes", [{}, {"lora": {"text_encoder": {}, "text_encoder_2": {}}}, {"method": "full"}])
    def test_goes_through_torchs_own_kernel_in_every_layer_of_a_step(
        self, changes: dict[str, Any], base_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = parse_config({"precision": "bf16", **changes})
        model = load_trainable(base_dir, config, torch.device("cpu"))
        base = model.base
        if base.text_encoder is None:
            base = load_base(base_dir, dtype=torch.bfloat16, components=TEXT_COMPONENTS)
        calls, usual = [], F.scaled_dot_product_attention

        def counting(*given: Any, **more: Any) -> torch.Tensor:
            calls.append(given)
            return usual(*given, **more)

        monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
        with model.compute():
            words = encode_prompts(base, ["a cat"])
            read, of_texts = len(calls), _layers(CLIPAttention, base.text_encoder, base.text_encoder_2)
            predicted = model.base.unet(
                torch.zeros(1, 4, 8, 8, dtype=model.base.dtype),
                torch.zeros(1),
                words.text.to(model.base.dtype),
                added_cond_kwargs={
                    "text_embeds": words.pooled.to(model.base.dtype),
                    "time_ids": torch.zeros(1, 6),
                },
                return_dict=False,
            )[0]
        assert predicted.requires_grad
        assert read == of_texts > 0
        assert len(calls) - read == _layers(Attention, model.base.unet) > 0


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


def _layers(kind: type[torch.nn.Module], *networks: torch.nn.Module) -> int:
    return sum(isinstance(module, kind) for network in networks for module in network.modules())
