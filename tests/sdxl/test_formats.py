from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contracts.failures import FailureCode, PatinaError
from contracts.lora import Adaptation
from sdxl.conditioning import encode_prompts, unconditional
from sdxl.formats import (
    ADAPTER_METADATA,
    check_full,
    full_tensors,
    load_adapter,
    read_header,
    save_adapter,
    save_full,
    tail_hash,
)
from sdxl.lora import attach_all
from sdxl.sampling import sample, to_bytes
from tests.sdxl.conftest import make_header

LAYER = "down_blocks.1.attentions.0.proj_in"


def pair(rank: int = 4, layer: str = LAYER) -> dict[str, torch.Tensor]:
    return {f"unet.{layer}.lora_A.weight": torch.ones(rank, 6), f"unet.{layer}.lora_B.weight": torch.ones(5, rank)}


def reason(path, **given) -> str:
    with pytest.raises(PatinaError) as caught:
        load_adapter(path, **given)
    assert caught.value.code is FailureCode.WEIGHTS_UNREADABLE
    return caught.value.message


class TestStockPipeline:
    @pytest.mark.parametrize(
        "kind",
        [
            pytest.param({"targets": "attn"}, marks=pytest.mark.slow),
            {"targets": "attn-ff"},
            pytest.param(
                {
                    "targets": "attn-ff-conv",
                    "rslora": True,
                    "rank_pattern": {"*.conv?": 2},
                    "alpha_pattern": {"*.to_q": 1},
                },
                marks=pytest.mark.slow,
            ),
            pytest.param({"targets": "attn-ff-conv", "dora": True}, marks=pytest.mark.slow),
        ],
        ids=["attn", "attn-ff", "LoCon", "DoRA"],
    )
    def test_every_module_acts_there_and_the_picture_is_ours(self, base, tiny_base, tmp_path, kind):
        path = tmp_path / "lora.safetensors"
        bank = attach_all({"unet": base.unet}, {"unet": Adaptation(rank=4, alpha=2.0, **kind)}, seed=0)
        for parameter in bank.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        save_adapter(path, bank.state_dict(), make_header(targets=kind["targets"]), bank.alphas)
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.load_lora_weights(path)

        layers = [module for module in pipe.unet.modules() if isinstance(module, LoraLayer)]
        acting = [layer for layer in layers if layer.get_delta_weight(*layer.active_adapters).any()]
        assert len(acting) == len(layers) == sum(".lora_A." in key for key in load_file(path)) == len(bank.module_names)

        stock = pipe(
            "red heart",
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images

        def ours():
            return sample(
                base,
                encode_prompts(base, ["red heart"]),
                negative=unconditional(base),
                seeds=[3],
                steps=4,
                guidance_scale=5.0,
                width=64,
                height=64,
            )

        in_training = ours()
        adapter = load_adapter(path, layers=bank.shapes)
        bank.add("read back", adapter.state, alpha=adapter.alphas)
        bank.select([{"read back": 1.0}])
        for found in (in_training, ours()):
            assert np.abs(found - stock).max() < 1e-4
            assert np.abs(to_bytes(found).astype(int) - to_bytes(stock).astype(int)).max() <= 1
        bank.select([{}])
        assert np.abs(ours() - stock).max() > 1e-3


class TestSaveAdapter:
    def test_comes_back_as_it_went_with_its_header(self, tmp_path, header):
        path = tmp_path / "sub" / "lora.safetensors"
        save_adapter(path, pair(), header)
        found = load_adapter(path, layers={f"unet.{LAYER}": (5, 6)}, base_identity=header.base_identity)
        assert found.header == read_header(path) == header
        assert (found.rank, found.alphas) == (4, {f"unet.{LAYER}": 2.0})
        assert all(torch.equal(found.state[key], tensor) for key, tensor in pair().items())
        assert [*path.parent.iterdir()] == [path]

    def test_the_tail_hash_does_not_depend_on_the_header(self, tmp_path, header):
        first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        save_adapter(first, pair(), header)
        save_adapter(second, pair(), make_header(name="another-name"))
        assert first.read_bytes() != second.read_bytes()
        assert tail_hash(first) == tail_hash(second)


class TestLoadAdapter:
    def test_refuses_weights_of_another_base_and_names_both(self, tmp_path, header):
        save_adapter(tmp_path / "x.safetensors", pair(), header)
        with pytest.raises(PatinaError) as caught:
            load_adapter(tmp_path / "x.safetensors", base_identity="d" * 64)
        assert caught.value.code is FailureCode.BASE_MISMATCH
        assert "a" * 64 in caught.value.message
        assert "d" * 64 in caught.value.message

    def test_refuses_what_is_no_safetensors_file(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04 and so on")
        assert "not a readable" in reason(tmp_path / "x.safetensors")
        assert "not a readable" in reason(tmp_path / "missing.safetensors")

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ({}, "no adapted layer"),
            (pair() | {"vae.x.lora_A.weight": torch.ones(1, 1)}, "no key of a LoRA"),
            (pair() | {"unet.../../etc.lora_A.weight": torch.ones(1, 1)}, "no key of a LoRA"),
            ({f"unet.{LAYER}.lora_A.weight": torch.ones(4, 6)}, "only one of"),
            (pair(257), "rank 257"),
            (pair() | {f"unet.{LAYER}.lora_B.weight": torch.ones(5, 3)}, "rank 4 and 3"),
            (pair() | {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 6, 1, 1)}, "has shapes"),
            (pair() | {f"unet.{LAYER}.lora_A.weight": torch.full((4, 6), torch.nan)}, "no finite numbers"),
            (pair() | {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 6, dtype=torch.int64)}, "not floating-point"),
            (pair() | {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 7)}, "fits no layer"),
            (pair(layer="down_blocks.9.proj_in"), "fits no layer"),
        ],
    )
    def test_refuses_what_is_not_exactly_a_lora_of_this_base(self, tmp_path, state, words):
        save_file(state, tmp_path / "x.safetensors")
        assert words in reason(tmp_path / "x.safetensors", layers={f"unet.{LAYER}": (5, 6)})

    def test_takes_alpha_from_peft_when_the_header_is_not_ours_and_the_rank_when_nothing_says(self, tmp_path):
        path = tmp_path / "x.safetensors"
        save_file(pair(), path, {ADAPTER_METADATA: json.dumps({"unet.lora_alpha": 8})})
        assert load_adapter(path).alphas == {f"unet.{LAYER}": 8}
        save_file(pair(), path)
        found = load_adapter(path)
        assert found.alphas == {f"unet.{LAYER}": 4}
        assert found.rank == 4
        assert found.header is None

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{", "cannot be read"),
            ("[]", "cannot be read"),
            ('{"unet.use_dora": true}', "use_dora"),
            ('{"unet.lora_alpha": "Infinity"}', "alpha is"),
        ],
    )
    def test_refuses_a_header_it_cannot_follow(self, tmp_path, text, words):
        save_file(pair(), tmp_path / "x.safetensors", {ADAPTER_METADATA: text})
        assert words in reason(tmp_path / "x.safetensors")


STATE = {"conv_in.weight": torch.ones(2, 3), "conv_in.bias": torch.zeros(2)}


class TestFull:
    def test_comes_back_under_diffusers_own_keys(self, tmp_path):
        path, header = tmp_path / "full.safetensors", make_header(method="full", rank=None, alpha=None, targets=None)
        save_full(path, STATE, header)
        assert check_full(path, {"unet": STATE}, base_identity=header.base_identity) == {"unet"}
        found = {name: (component, tensor) for component, name, tensor in full_tensors(path)}
        assert {component for component, _ in found.values()} == {"unet"}
        assert all(torch.equal(found[key][1], tensor) for key, tensor in STATE.items())
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["modelspec.architecture"] == "stable-diffusion-xl-v1-base"

    @pytest.mark.parametrize("shapes", [{"conv_in.weight": (2, 3)}, {"conv_in.weight": (2, 3), "conv_in.bias": (3,)}])
    def test_refuses_a_unet_of_another_shape(self, tmp_path, header, shapes):
        save_full(tmp_path / "full.safetensors", STATE, header)
        with pytest.raises(PatinaError):
            check_full(tmp_path / "full.safetensors", {"unet": {name: torch.ones(s) for name, s in shapes.items()}})

    def test_stops_at_the_first_value_that_is_no_number(self, tmp_path, header):
        path = tmp_path / "full.safetensors"
        save_full(path, STATE | {"conv_in.bias": torch.tensor([0.0, torch.inf])}, header)
        with pytest.raises(PatinaError, match="no finite numbers"):
            list(full_tensors(path))
