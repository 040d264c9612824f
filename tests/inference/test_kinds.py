"""Every kind of LoRA that can be trained, generating: alone as the stock pipeline does, and mixed in one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from contracts.lora import LoraSettings
from inference.engine import AdapterUse, EngineRequest
from sdxl import files as base_files
from sdxl.base import load_base
from sdxl.formats import save_adapter, save_full
from sdxl.lora import attach_all

TEXT = {"text_encoder": {"rank": 2}, "text_encoder_2": {"rank": 3, "alpha": 6.0}}
KINDS = {
    "text encoders": LoraSettings.model_validate({"rank": 4, "targets": "attn", **TEXT}),
    "LoCon": LoraSettings.model_validate({"rank": 4, "targets": "attn-ff-conv", "rank_pattern": {"*.conv?": 2}}),
    "all DoRA": LoraSettings.model_validate(
        {"rank": 4, "targets": "attn-ff-conv", "dora": True, "rslora": True, **TEXT}
    ),
}


@pytest.fixture(scope="session")
def file_of(tiny_base: Path, make_header, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a LoRA of a kind as training leaves it, a little away from where it starts."""
    folder = tmp_path_factory.mktemp("kinds")

    def make(kind: str) -> Path:
        path = folder / f"{kind}.safetensors"
        if not path.exists():
            base = load_base(tiny_base, dtype=torch.float32)
            how = KINDS[kind].adaptations()
            bank = attach_all({name: getattr(base, name) for name in how}, how, seed=0)
            generator = torch.Generator().manual_seed(1)
            for parameter in bank.parameters():
                parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            save_adapter(path, bank.state_dict(), make_header(alpha=None), bank.alphas)
        return path

    return make


def request(*adapters: AdapterUse, prompt: str = "red heart", **changes) -> EngineRequest:
    given = {"steps": 3, "negative_prompt": "blurry"} | changes
    return EngineRequest(prompt, (3,), 64, 64, adapters=adapters, **given)


def differs(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


class TestEachKind:
    @pytest.mark.parametrize(
        "kind", ["text encoders", *(pytest.param(k, marks=pytest.mark.slow) for k in ("LoCon", "all DoRA"))]
    )
    def test_equals_the_stock_pipeline_with_the_same_file(self, kind, engine, tiny_base, file_of):
        path = file_of(kind)
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.load_lora_weights(path)
        drawn = torch.Generator().manual_seed(3)
        stock = pipe("red heart", negative_prompt="blurry", num_inference_steps=3, guidance_scale=5.0, generator=drawn,
                     output_type="np").images  # fmt: skip
        ours, plain = engine.generate_unit([request(AdapterUse(kind, path)), request()])
        assert differs(ours, stock) < 1e-4
        assert differs(ours, plain) > 1e-3

    def test_in_one_batch_each_picture_has_its_own_and_equals_itself_alone(self, engine, file_of):
        text, conv, dora = (AdapterUse(kind, file_of(kind)) for kind in KINDS)
        half = AdapterUse(dora.key, dora.path, 0.5)
        asked = [request(text), request(conv, half), request(), request(dora, text)]
        together = engine.generate_unit(asked)
        for one, found in zip(asked, together, strict=True):
            (alone,) = engine.generate_unit([one])
            assert differs(alone, found) < 1e-4
        assert min(differs(a, b) for n, a in enumerate(together) for b in together[:n]) > 1e-3

    def test_a_dora_follows_a_full_fine_tune_and_comes_back_with_the_base(
        self, engine, tiny_base, file_of, make_header, tmp_path
    ):
        state = {k: t.float() * 1.1 for k, t in base_files.tensors(base_files.open_base(tiny_base), "unet")}
        save_full(tmp_path / "full.safetensors", state, make_header(method="full", rank=None, alpha=None, targets=None))
        dora = AdapterUse("dora", file_of("all DoRA"))
        before, tuned, after = engine.generate_unit(
            [request(dora), request(dora, full_weights=tmp_path / "full.safetensors"), request(dora)]
        )
        assert differs(before, after) == 0
        assert differs(before, tuned) > 1e-3
