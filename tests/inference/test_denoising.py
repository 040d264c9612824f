"""Weights trained to predict something else than their base does: sampled as they were trained, and never mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

from contracts.failures import FailureCode, PatinaError
from inference.engine import AdapterUse, Engine, EngineRequest
from sdxl import files as base_files
from sdxl.dialects import read
from sdxl.formats import save_adapter, save_full
from sdxl.networks import ZERO_TERMINAL_SNR

VELOCITY = {"prediction_type": "v_prediction", "zero_terminal_snr": False}
PURE = {"prediction_type": "v_prediction", "zero_terminal_snr": True}


def request(*adapters: AdapterUse, **changes) -> EngineRequest:
    return EngineRequest("red heart", (3,), 64, 64, steps=3, adapters=adapters, **changes)


def differs(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.fixture
def use_of(tmp_path: Path, make_adapter, make_header) -> Callable[..., AdapterUse]:
    """A LoRA whose header says what it was trained to predict; always the same tensors."""

    def make(name: str, scale: float = 1.0, **trained) -> AdapterUse:
        path = tmp_path / f"{name}.safetensors"
        save_adapter(path, read(make_adapter(1)).state, make_header(name=name, **trained))
        return AdapterUse(name, path, scale)

    return make


@pytest.fixture
def full_of(tmp_path: Path, tiny_base: Path, make_header) -> Callable[..., Path]:
    def make(**trained) -> Path:
        path = tmp_path / "full.safetensors"
        state = dict(base_files.tensors(base_files.open_base(tiny_base), "unet"))
        save_full(path, state, make_header(method="full", rank=None, alpha=None, targets=None, **trained))
        return path

    return make


class TestSampling:
    def test_is_that_of_the_stock_pipeline_on_the_schedule_the_weights_were_trained_on(
        self, engine: Engine, tiny_base: Path, use_of
    ) -> None:
        use = use_of("velocity", **PURE)
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.load_lora_weights(use.path)
        pipe.scheduler = EulerDiscreteScheduler.from_config(
            pipe.scheduler.config, prediction_type="v_prediction", **ZERO_TERMINAL_SNR
        )
        drawn = torch.Generator().manual_seed(3)
        stock = pipe("red heart", num_inference_steps=3, guidance_scale=5.0, generator=drawn, output_type="np").images
        ours, as_the_base, nothing = engine.generate_unit(
            [request(use), request(use_of("noise")), request(AdapterUse("velocity", use.path, 0.0))]
        )
        assert differs(ours, stock) < 1e-4
        assert differs(ours, as_the_base) > 1e-2
        assert differs(nothing, engine.generate_unit([request()])[0]) < 1e-4

    def test_of_a_full_fine_tune_follows_it_and_comes_back_with_the_base(self, engine: Engine, full_of) -> None:
        full = full_of(**VELOCITY)
        before, tuned, after = engine.generate_unit([request(), request(full_weights=full), request()])
        assert differs(before, after) == 0
        assert differs(before, tuned) > 1e-2

    def test_of_each_request_in_a_batch_is_its_own(self, engine: Engine, use_of) -> None:
        asked = [request(use_of("v", **VELOCITY)), request(use_of("noise")), request(use_of("pure", **PURE)), request()]
        together = engine.generate_unit(asked)
        for one, found in zip(asked, together, strict=True):
            (alone,) = engine.generate_unit([one])
            assert differs(alone, found) < 1e-4
        assert min(differs(a, b) for n, a in enumerate(together) for b in together[:n]) > 1e-2


class TestMixing:
    def test_what_was_trained_to_predict_different_things_is_refused_alone(
        self, engine: Engine, use_of, full_of
    ) -> None:
        velocity, noise, pure = use_of("velocity", **VELOCITY), use_of("noise"), use_of("pure", **PURE)
        mixed, fine, on_full, agreeing = engine.generate_unit(
            [
                request(velocity, noise),
                request(noise),
                request(pure, full_weights=full_of(**VELOCITY)),
                request(velocity, AdapterUse("noise", noise.path, 0.0)),
            ]
        )
        assert isinstance(mixed, PatinaError)
        assert mixed.code is FailureCode.INVALID_INPUT
        assert "'velocity' predicts v, from nearly pure noise; 'noise' predicts the noise" in mixed.message
        assert isinstance(on_full, PatinaError)
        assert "'tiny' predicts v, from nearly pure noise" in on_full.message
        assert isinstance(fine, np.ndarray)
        assert isinstance(agreeing, np.ndarray)
