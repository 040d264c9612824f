from __future__ import annotations

import pytest

from contracts.failures import FailureCode, PatinaError
from sdxl.hub import fetch, wanted

SDXL = [
    "README.md",
    "model_index.json",
    "sd_xl_base_1.0.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.fp16.safetensors",
    "text_encoder_2/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "unet/config.json",
    "unet/diffusion_flax_model.msgpack",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


class TestWanted:
    def test_takes_one_set_of_weights_for_each_network_and_nothing_else_large(self):
        assert [name for name in wanted(SDXL) if "safetensors" in name] == [
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.fp16.safetensors",
            "text_encoder_2/model.fp16.safetensors",
        ]
        small = [name for name in wanted(SDXL) if "safetensors" not in name]
        assert small == [n for n in SDXL if n.endswith(("config.json", "index.json", "vocab.json", "merges.txt"))]


class TestFetch:
    def test_a_name_that_cannot_be_one_is_refused_in_words(self):
        with pytest.raises(PatinaError) as caught:
            fetch("not/a/repository/name")
        assert caught.value.code is FailureCode.BASE_UNREADABLE
        assert "HF_TOKEN" in caught.value.hint
