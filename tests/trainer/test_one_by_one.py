"""Updates one parameter at a time: the same as all at once, with no gradient kept, and right on average in bf16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.optimizers import OptimizerKind, OptimizerSettings
from trainer.flat import FlatParameters
from trainer.one_by_one import OneByOne
from trainer.optim import make_optimizer
from trainer.processes import Processes
from trainer.update import AtOnce, Update

ALONE = Processes(0, 1, torch.device("cpu"))
PEAKS = {"unet": 0.01}
SHAPES = {"linear": (24, 32), "bias": (24,), "kernel": (8, 4, 3, 3)}


def make_flat(dtype: torch.dtype = torch.float32, *, gradient: bool) -> FlatParameters:
    generator = torch.Generator().manual_seed(0)
    named = {name: nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for name, s in SHAPES.items()}
    return FlatParameters({"unet": named}, gradient=gradient)


def settings_of(kind: OptimizerKind) -> OptimizerSettings:
    return OptimizerSettings.model_validate({"kind": kind, "max_grad_norm": None})


def one_by_one(flat: FlatParameters, kind: OptimizerKind = "adamw", *, fused: bool, seed: int = 0) -> OneByOne:
    return OneByOne(flat, settings_of(kind), PEAKS, ALONE, fused=fused, seed=seed)


def train(flat: FlatParameters, update: Update, steps: range) -> list[float]:
    norms = []
    for step in steps:
        update.begin(step, 1.0)
        loss = sum(((p.float() - 0.3) * step).square().mean() for p in flat.named.values())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        norms.append(update.finish(1.0))
        update.apply()
    return norms


class TestFused:
    @pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "lion8bit", "adafactor"])
    def test_equals_the_update_at_once_bit_for_bit_and_holds_no_gradient(self, kind: OptimizerKind) -> None:
        whole, pieces = make_flat(gradient=True), make_flat(gradient=False)
        at_once = AtOnce(whole, make_optimizer(whole, settings_of(kind), PEAKS), ALONE, None)
        norms = train(whole, at_once, range(1, 4))
        assert train(pieces, one_by_one(pieces, kind, fused=True), range(1, 4)) == pytest.approx(norms)
        assert torch.equal(whole.vector, pieces.vector)
        assert all(parameter.grad is None for parameter in pieces.named.values())

    def test_never_holds_more_than_one_gradient(self) -> None:
        flat = make_flat(gradient=False)
        held = []
        for parameter in flat.named.values():
            # Before ours, so that it sees the parameter's own gradient still there.
            parameter.register_post_accumulate_grad_hook(
                lambda _: held.append(sum(p.grad is not None for p in flat.named.values()))
            )
        train(flat, one_by_one(flat, fused=True), range(1, 3))
        assert held == [1] * 6


class TestBf16:
    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "lion8bit", "adafactor"])
    def test_goes_on_bit_for_bit_from_what_it_saved(self, kind: OptimizerKind, fused: bool) -> None:
        flat = make_flat(torch.bfloat16, gradient=not fused)
        update = one_by_one(flat, kind, fused=fused)
        train(flat, update, range(1, 4))
        weights = flat.vector.detach().clone()
        saved = {name: tensor.clone() for name, tensor in update.state().items()}
        train(flat, update, range(4, 7))
        again = make_flat(torch.bfloat16, gradient=not fused)
        again.vector.data.copy_(weights)
        resumed = one_by_one(again, kind, fused=fused)
        resumed.load(saved)
        train(again, resumed, range(4, 7))
        assert torch.equal(flat.vector, again.vector)
        assert flat.vector.dtype == torch.bfloat16

    @pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "adafactor"])
    def test_keeps_no_copy_in_fp32_between_updates_the_first_included(self, kind: OptimizerKind) -> None:
        flat = make_flat(torch.bfloat16, gradient=False)
        update = one_by_one(flat, kind, fused=True)
        assert [shadow.numel() for shadow in update._shadows.values()] == [0, 0, 0]
        train(flat, update, range(1, 2))
        assert [shadow.numel() for shadow in update._shadows.values()] == [0, 0, 0]

    def test_is_rounded_otherwise_under_another_seed(self) -> None:
        first, second = make_flat(torch.bfloat16, gradient=False), make_flat(torch.bfloat16, gradient=False)
        train(first, one_by_one(first, fused=True, seed=1), range(1, 3))
        train(second, one_by_one(second, fused=True, seed=2), range(1, 3))
        assert not torch.equal(first.vector, second.vector)

    def test_updates_below_half_a_step_of_bf16_add_up(self) -> None:
        flat = FlatParameters({"unet": {"w": nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))}}, gradient=False)
        update = OneByOne(
            flat, OptimizerSettings(kind="lion8bit", weight_decay=0.0), {"unet": 1e-4}, ALONE, fused=True, seed=0
        )
        for step in range(1, 101):
            update.begin(step, 1.0)
            flat.named["w"].float().sum().backward()
            update.finish(1.0)
        # A hundred steps of 1e-4 down; rounded to nearest it would still be 1, whose next number is 0.4 % below.
        assert flat.named["w"].float().mean().item() == pytest.approx(0.99, abs=1e-3)

    def test_clips_when_it_is_not_fused(self) -> None:
        flat = make_flat(torch.bfloat16, gradient=True)
        update = OneByOne(flat, OptimizerSettings(max_grad_norm=0.5), PEAKS, ALONE, fused=False, seed=0)
        seen = []
        inner = update._update
        update._update = lambda name, p, g: (seen.append(g.square().sum()), inner(name, p, g))[1]  # type: ignore[method-assign]
        (norm,) = train(flat, update, range(5, 6))
        assert norm > 0.5
        assert torch.stack(seen).sum().sqrt().item() == pytest.approx(0.5, rel=1e-3)
