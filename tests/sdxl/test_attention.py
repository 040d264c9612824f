"""Attention over few positions goes forward as ever, and back as exactly as torch's own and to the same adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sdxl import attention
from sdxl.base import load_base
from sdxl.lora import attach

SHAPES = {"self": (1, 20, 64, 64), "cross": (1, 20, 64, 77), "batch": (3, 10, 35, 35), "wide": (1, 2, 256, 77)}
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
class TestFewPositionsInHalfPrecision:
    def test_go_forward_bit_for_bit_as_torch_has_them(self, shape: tuple[int, int, int, int]) -> None:
        given, _ = make_inputs(shape)
        assert torch.equal(attention.attend(*given), F.scaled_dot_product_attention(*given))

    def test_go_back_as_exactly_as_torch_has_them(self, shape: tuple[int, int, int, int]) -> None:
        given, grad = make_inputs(shape)
        exact = gradients(plain, [tensor.double() for tensor in given], grad.double())
        ours, torchs = (gradients(attend, given, grad) for attend in (attention.attend, F.scaled_dot_product_attention))
        for one, theirs, right in zip(ours, torchs, exact, strict=True):
            assert one.dtype is torch.bfloat16
            assert 0 < distance(one, right) < max(1.25 * distance(theirs, right), 0.004)
        assert not all(torch.equal(one, theirs) for one, theirs in zip(ours, torchs, strict=True))


class TestAnythingElse:
    @pytest.mark.parametrize(
        ("shape", "dtype"), [((1, 2, 64, 77), torch.float32), ((1, 2, 257, 256), torch.bfloat16)], ids=["fp32", "many"]
    )
    def test_goes_torchs_way_both_ways(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        given, grad = make_inputs(shape, dtype)
        ours, torchs = (gradients(attend, given, grad) for attend in (attention.attend, F.scaled_dot_product_attention))
        assert all(torch.equal(one, theirs) for one, theirs in zip(ours, torchs, strict=True))

    def test_is_masked_as_diffusers_does_it(self, tiny_base: Path) -> None:
        mask = torch.ones(2, 7)
        mask[:, 4:] = 0
        outputs = []
        for use_in in (attention.use_in, lambda _: None):
            unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
            use_in(unet)
            outputs.append(predict(unet, torch.float32, encoder_attention_mask=mask))
        assert torch.equal(*outputs)
        assert not torch.equal(outputs[0], predict(unet, torch.float32))


class TestAUnet:
    @pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 0.0), (torch.bfloat16, 0.03)])
    def test_predicts_the_same_bits_and_teaches_adapters_the_same(
        self, tiny_base: Path, dtype: torch.dtype, apart: float
    ) -> None:
        found = []
        for use_in in (attention.use_in, lambda _: None):
            unet = load_base(tiny_base, dtype=dtype, components={"unet"}).unet
            bank = attach(unet, rank=4, alpha=4, targets="attn", seed=0)
            bank.load_state_dict({key: torch.full_like(value, 0.02) for key, value in bank.state_dict().items()})
            use_in(unet)
            predicted = predict(unet, dtype)
            predicted.float().square().sum().backward()
            found.append((predicted, torch.cat([parameter.grad.flatten() for parameter in bank.parameters()])))
        (ours, our_grad), (usual, usual_grad) = found
        assert torch.equal(ours, usual)
        assert distance(our_grad, usual_grad) <= apart
        assert torch.equal(our_grad, usual_grad) == (apart == 0)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value


def make_inputs(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.bfloat16
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Query, key and value as projections leave them, heads beside each other; and a gradient of what comes out."""
    samples, heads, queries, keys = shape
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(samples, n, heads * 64, generator=generator) for n in (queries, keys, keys, queries)]
    *given, grad = (one.to(dtype).unflatten(-1, (heads, 64)).transpose(1, 2) for one in drawn)
    return given, grad


def gradients(attend: Attend, given: list[torch.Tensor], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    return torch.autograd.grad(attend(*leaves), leaves, grad)


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Relative."""
    return float((first.double() - second.double()).norm() / second.double().norm())


def predict(unet: Any, dtype: torch.dtype, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    added = {
        "text_embeds": torch.randn(2, pooled, generator=generator).to(dtype),
        "time_ids": torch.full((2, 6), 64.0),
    }
    latents = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
    text = torch.randn(2, 7, config.cross_attention_dim, generator=generator).to(dtype)
    timesteps = torch.tensor([10, 500])
    predicted: torch.Tensor = unet(latents, timesteps, text, added_cond_kwargs=added, return_dict=False, **more)[0]
    return predicted
