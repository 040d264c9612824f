"""Quantised layers are near the plain ones forwards and backwards, and never all dense at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sdxl.networks
import sdxl.stock
from contracts.precision import Quantization
from sdxl.base import load_base
from sdxl.lora import attach
from sdxl.quantized import QuantizedLinear, quantizable

BOUNDS: Mapping[Quantization, float] = {"nf4": 0.11, "int8": 0.01}
"""Relative error of a product with normal weights: nf4's own is 0.092, int8's 0.0076."""
KINDS = list(BOUNDS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of small layers: more threads than free cores would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach().float() - wanted.detach().float()).norm() / wanted.detach().float().norm())


def make_pair(kind: Quantization, dtype: torch.dtype) -> tuple[QuantizedLinear, nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Linear(256, 384)
    plain.weight.data = torch.randn(384, 256, generator=generator)
    plain.bias.data = torch.randn(384, generator=generator)
    plain.requires_grad_(False)
    layer = QuantizedLinear(plain.weight.data, kind, dtype=dtype, bias=True)
    layer.bias = nn.Parameter(plain.bias.data.to(dtype), requires_grad=False)
    return layer, plain.to(dtype)


@pytest.mark.parametrize("kind", KINDS)
class TestQuantizedLinear:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_is_near_the_plain_one_forwards_and_backwards(self, kind: Quantization, dtype: torch.dtype) -> None:
        layer, plain = make_pair(kind, dtype)
        inputs = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
        found = []
        for module in (layer, plain):
            x = inputs.clone().requires_grad_()
            out = module(x)
            out.float().square().sum().backward()
            found.append((out, x.grad))
        (out, back), (plain_out, plain_back) = found
        assert (out.dtype, out.shape) == (dtype, plain_out.shape)
        assert 0 < relative(out, plain_out) < BOUNDS[kind]
        assert 0 < relative(back, plain_back) < 2 * BOUNDS[kind]

    def test_takes_the_bytes_it_promises(self, kind: Quantization) -> None:
        layer, _ = make_pair(kind, torch.bfloat16)
        assert layer.packed.nbytes / (384 * 256) == {"nf4": 0.5, "int8": 1.0}[kind]

    def test_looks_for_its_library_once_and_not_in_every_pass(
        self, kind: Quantization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer, _ = make_pair(kind, torch.float32)
        monkeypatch.setattr(sdxl.stock, "importlib", None)
        layer(torch.randn(3, 256, requires_grad=True)).sum().backward()

    def test_keeps_no_dense_weight_for_the_backward_pass(self, kind: Quantization) -> None:
        layer, _ = make_pair(kind, torch.float32)
        saved: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(torch.randn(3, 256, requires_grad=True)).sum().backward()
        assert 384 * 256 not in saved


@pytest.mark.parametrize("kind", KINDS)
class TestAUnet:
    def test_is_quantised_weight_by_weight_as_it_is_read(
        self, kind: Quantization, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dense: list[Any] = []
        alive: list[int] = []

        def watching(weight: torch.Tensor, *args: Any, **named: Any) -> QuantizedLinear:
            alive.append(sum(one() is not None for one in dense))
            dense.append(weakref.ref(weight))
            return QuantizedLinear(weight, *args, **named)

        monkeypatch.setattr(sdxl.networks, "QuantizedLinear", watching)
        unet = load_base(tiny_base, dtype=torch.bfloat16, components={"unet"}, quantize=kind).unet
        plain = load_base(tiny_base, dtype=torch.bfloat16, components={"unet"}).unet
        assert len(alive) == len(quantizable(plain)) > 50
        assert max(alive) <= 1
        assert all(one() is None for one in dense)
        left = {name for name, _ in unet.named_parameters() if name.endswith("weight") and ".attentions." in name}
        assert all(".norm" in name for name in left)
        assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}

    def test_predicts_nearly_the_same_and_teaches_adapters_nearly_the_same(
        self, kind: Quantization, tiny_base: Path
    ) -> None:
        found = []
        for quantize in (kind, None):
            unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}, quantize=quantize).unet
            bank = attach(unet, rank=4, alpha=4, targets="attn-ff", seed=0)
            assert {parameter.dtype for parameter in bank.parameters()} == {torch.float32}
            generator = torch.Generator().manual_seed(0)
            config = unet.config
            latents = torch.randn(2, 4, 8, 8, generator=generator)
            text = torch.randn(2, 7, config.cross_attention_dim, generator=generator)
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            added = {
                "text_embeds": torch.randn(2, pooled, generator=generator),
                "time_ids": torch.full((2, 6), 64.0),
            }
            out = unet(latents, torch.tensor([10, 900]), text, added_cond_kwargs=added, return_dict=False)[0]
            (out - latents).square().mean().backward()
            grads = torch.cat([p.grad.flatten() for p in bank.parameters() if p.grad is not None])
            found.append((out.detach(), grads))
        (out, grads), (plain_out, plain_grads) = found
        assert 0 < relative(out, plain_out) < 3 * BOUNDS[kind]
        # Random weights amplify what is lost; nf4 measured 0.67 here.
        assert torch.cosine_similarity(grads, plain_grads, dim=0) > {"nf4": 0.5, "int8": 0.9}[kind]
