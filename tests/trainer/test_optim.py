"""Every kind of optimiser over groups equals the library's own over the parameters, and goes on from what it saved."""

from __future__ import annotations

from typing import Any, get_args

import bitsandbytes
import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from transformers.optimization import Adafactor

import trainer.optim
from contracts.optimizers import STATE_BYTES, OptimizerKind, OptimizerSettings
from trainer.flat import FlatParameters
from trainer.optim import Optimizer, make_optimizer

SHAPES = {"a": (3, 5), "b": (7,), "kernel": (8, 4, 3, 3), "c": (64, 20)}
PEAKS = {"unet": 0.1, "text_encoder": 0.01}
KINDS: tuple[OptimizerKind, ...] = get_args(OptimizerKind)


def make_named(*names: str, seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(SHAPES[name], generator=generator)) for name in names}


def make_two_groups(settings: OptimizerSettings) -> tuple[FlatParameters, Optimizer]:
    flat = FlatParameters({"unet": make_named("a", "b", "kernel"), "text_encoder": make_named("c", seed=1)})
    return flat, make_optimizer(flat, settings, PEAKS)


def train(flat: FlatParameters, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        flat.gradient.zero_()
        backward(flat.named, step)
        optimizer.step()


def backward(named: dict[str, nn.Parameter], step: int) -> None:
    for parameter in named.values():
        ((parameter - 0.5) * (step + 1)).square().mean().backward()


def library_own(kind: OptimizerKind, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """As its library's documentation says to make it."""
    match kind:
        case "adamw":
            return torch.optim.AdamW(groups, weight_decay=0.1, fused=True)
        case "adamw8bit":
            return bitsandbytes.optim.AdamW8bit(groups, weight_decay=0.1, min_8bit_size=0)
        case "paged-adamw8bit":
            return bitsandbytes.optim.PagedAdamW8bit(groups, weight_decay=0.1, min_8bit_size=0)
        case "lion8bit":
            return bitsandbytes.optim.Lion8bit(groups, weight_decay=0.1, min_8bit_size=0)
        case "adafactor":
            return Adafactor(groups, weight_decay=0.1, scale_parameter=False, relative_step=False)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("kind", KINDS)
class TestOptimizer:
    def test_equals_the_librarys_own_over_separate_parameters(
        self, kind: OptimizerKind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Several pieces, so that where one is cut is seen to make no difference.
        monkeypatch.setattr(trainer.optim, "PIECE_ELEMENTS", 512)
        flat, ours = make_two_groups(OptimizerSettings(kind=kind, weight_decay=0.1))
        own = {name: nn.Parameter(p.detach().clone()) for name, p in flat.named.items()}
        # Adafactor is shown a kernel as a matrix.
        shown = {
            n: nn.Parameter(p.data.flatten(1)) if p.ndim > 2 and kind == "adafactor" else p for n, p in own.items()
        }
        groups = [
            {"params": [shown["a"], shown["b"], shown["kernel"]], "lr": 0.1},
            {"params": [shown["c"]], "lr": 0.01},
        ]
        theirs = library_own(kind, groups)
        for step in range(4):
            train(flat, ours, range(step, step + 1))
            for plain in shown.values():
                plain.grad = None
            backward(shown, step)
            theirs.step()
        for name, mine in flat.named.items():
            assert torch.equal(mine.flatten(), shown[name].flatten()), name
        assert (flat.named["a"] - 0.5).abs().mean() < (make_named("a")["a"] - 0.5).abs().mean()

    def test_goes_on_from_a_file_of_its_state_bit_for_bit(self, kind: OptimizerKind) -> None:
        settings = OptimizerSettings(kind=kind)
        flat, optimizer = make_two_groups(settings)
        train(flat, optimizer, range(3))
        file, weights = save(optimizer.state()), flat.vector.detach().clone()
        train(flat, optimizer, range(3, 6))
        again, resumed = make_two_groups(settings)
        again.vector.data.copy_(weights)
        resumed.load(load(file))
        train(again, resumed, range(3, 6))
        assert torch.equal(again.vector, flat.vector)
        assert all(torch.equal(tensor, resumed.state()[name]) for name, tensor in optimizer.state().items())

    @pytest.mark.parametrize(("before", "now"), [(512, 1 << 20), (1 << 20, 256), (256, 768)])
    def test_goes_on_bit_for_bit_where_its_pieces_were_of_another_size(
        self, kind: OptimizerKind, before: int, now: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = OptimizerSettings(kind=kind)
        monkeypatch.setattr(trainer.optim, "PIECE_ELEMENTS", before)
        flat, optimizer = make_two_groups(settings)
        train(flat, optimizer, range(3))
        file, weights = save(optimizer.state()), flat.vector.detach().clone()
        train(flat, optimizer, range(3, 6))
        monkeypatch.setattr(trainer.optim, "PIECE_ELEMENTS", now)
        again, resumed = make_two_groups(settings)
        again.vector.data.copy_(weights)
        resumed.load(load(file))
        train(again, resumed, range(3, 6))
        assert torch.equal(again.vector, flat.vector)

    def test_without_its_state_it_would_go_on_otherwise(self, kind: OptimizerKind) -> None:
        settings = OptimizerSettings(kind=kind)
        flat, optimizer = make_two_groups(settings)
        train(flat, optimizer, range(3))
        weights = flat.vector.detach().clone()
        train(flat, optimizer, range(3, 5))
        again, fresh = make_two_groups(settings)
        again.vector.data.copy_(weights)
        train(again, fresh, range(3, 5))
        assert not torch.equal(again.vector, flat.vector)

    def test_keeps_as_many_bytes_as_the_table_says(self, kind: OptimizerKind) -> None:
        flat, optimizer = make_two_groups(OptimizerSettings(kind=kind))
        train(flat, optimizer, range(1))
        kept = {name: tensor for name, tensor in optimizer.state().items() if tensor.ndim and "qmap" not in name}
        total = sum(tensor.nbytes for tensor in kept.values())
        if kind == "adafactor":
            assert total == 4 * (3 + 5 + 7 + 8 + 4 * 3 * 3 + 64 + 20)
        else:
            assert total == STATE_BYTES[kind] * flat.vector.numel()

    def test_sets_each_group_to_the_share_of_its_own_peak(self, kind: OptimizerKind) -> None:
        _, optimizer = make_two_groups(OptimizerSettings(kind=kind))
        assert optimizer.set_rates(0.5) == {"unet": 0.05, "text_encoder": 0.005}

    def test_a_rate_of_zero_moves_nothing(self, kind: OptimizerKind) -> None:
        flat, optimizer = make_two_groups(OptimizerSettings(kind=kind))
        before = flat.vector.detach().clone()
        optimizer.set_rates(0.0)
        train(flat, optimizer, range(2))
        assert torch.equal(flat.vector, before)
