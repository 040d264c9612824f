"""An optimiser over groups equals the library's own over the parameters, and goes on from what it saved."""

from __future__ import annotations

import torch
from torch import nn

from contracts.train import OptimizerSettings
from trainer.flat import FlatParameters
from trainer.optim import Optimizer, clip_, make_optimizer

SHAPES = {"a": (3, 5), "b": (7,), "c": (64, 2)}
PEAKS = {"unet": 0.1, "text_encoder": 0.01}


def make_named(*names: str, seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(SHAPES[name], generator=generator)) for name in names}


def make_two_groups(settings: OptimizerSettings) -> tuple[FlatParameters, Optimizer]:
    flat = FlatParameters({"unet": make_named("a", "b"), "text_encoder": make_named("c", seed=1)})
    return flat, make_optimizer(flat, settings, PEAKS)


def train(flat: FlatParameters, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        flat.gradient.zero_()
        for parameter in flat.named.values():
            (parameter * (step + 1)).square().sum().backward()
        optimizer.step()


class TestOptimizer:
    def test_equals_torchs_own_over_separate_parameters(self) -> None:
        settings = OptimizerSettings(weight_decay=0.1)
        flat, ours = make_two_groups(settings)
        own = {name: nn.Parameter(p.detach().clone()) for name, p in flat.named.items()}
        groups = [{"params": [own["a"], own["b"]], "lr": 0.1}, {"params": [own["c"]], "lr": 0.01}]
        theirs = torch.optim.AdamW(groups, weight_decay=0.1, fused=True)
        for step in range(3):
            train(flat, ours, range(step, step + 1))
            for plain in own.values():
                plain.grad = None
                (plain * (step + 1)).square().sum().backward()
            theirs.step()
        for name, mine in flat.named.items():
            assert torch.equal(mine, own[name])

    def test_sets_each_group_to_the_share_of_its_own_peak(self) -> None:
        _, optimizer = make_two_groups(OptimizerSettings())
        assert optimizer.set_rates(0.5) == {"unet": 0.05, "text_encoder": 0.005}

    def test_goes_on_from_its_state_bit_for_bit(self) -> None:
        flat, optimizer = make_two_groups(OptimizerSettings())
        train(flat, optimizer, range(2))
        saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
        weights = flat.vector.detach().clone()
        train(flat, optimizer, range(2, 5))
        again, resumed = make_two_groups(OptimizerSettings())
        again.vector.data.copy_(weights)
        resumed.load(saved)
        train(again, resumed, range(2, 5))
        assert torch.equal(again.vector, flat.vector)


class TestClip:
    def test_scales_down_to_the_norm_and_never_up(self) -> None:
        gradient = torch.tensor([3.0, 4.0])
        assert clip_(gradient, 10.0) == 5.0
        assert gradient.tolist() == [3.0, 4.0]
        assert clip_(gradient, None) == 5.0
        assert clip_(gradient, 1.0) == 5.0
        torch.testing.assert_close(gradient, torch.tensor([0.6, 0.8]))
