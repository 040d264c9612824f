"""AdamW over one vector equals AdamW over the parameters, and the learning rate has the shape asked for."""

from __future__ import annotations

import torch
from torch import nn

from contracts.train import OptimizerSettings
from trainer.optim import FlatParameters, clip_, learning_rate, make_adamw


class TestFlatAdamw:
    def test_equals_torchs_own_over_separate_parameters(self) -> None:
        generator = torch.Generator().manual_seed(0)
        named = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
        own = [nn.Parameter(p.detach().clone()) for p in named.values()]
        settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.1)
        flat = FlatParameters(named)
        ours = make_adamw(flat, settings)
        theirs = torch.optim.AdamW(own, lr=0.1, weight_decay=0.1, fused=True)
        for step in range(3):
            flat.gradient.zero_()
            for mine, plain in zip(named.values(), own, strict=True):
                (mine * (step + 1)).square().sum().backward()
                plain.grad = None
                (plain * (step + 1)).square().sum().backward()
            ours.step()
            theirs.step()
        for mine, plain in zip(named.values(), own, strict=True):
            assert torch.equal(mine, plain)
        assert flat.count == sum(p.numel() for p in own)

    def test_names_lead_to_their_part_of_any_such_vector(self) -> None:
        flat = FlatParameters({name: nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()})
        vector = torch.zeros_like(flat.vector.data)
        flat.fill(vector, {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(SHAPES.items())})
        assert [tensor.mean().item() for tensor in flat.split(vector).values()] == [0.0, 1.0, 2.0]


SHAPES = {"a": (3, 5), "b": (7,), "c": (64, 2)}


class TestLearningRate:
    def test_rises_over_the_warm_up_and_falls_as_a_cosine(self) -> None:
        settings = OptimizerSettings(learning_rate=1.0, warmup_steps=4)
        rates = [learning_rate(step, 104, settings) for step in range(1, 105)]
        assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
        assert rates[4] == 1.0
        assert abs(rates[54] - 0.5) < 1e-9
        assert 0 < rates[-1] < 0.001

    def test_linear_and_constant(self) -> None:
        linear = OptimizerSettings(learning_rate=1.0, schedule="linear")
        assert [learning_rate(step, 4, linear) for step in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
        constant = OptimizerSettings(learning_rate=0.5, schedule="constant")
        assert {learning_rate(step, 4, constant) for step in (1, 2, 3, 4)} == {0.5}


class TestClip:
    def test_scales_down_to_the_norm_and_never_up(self) -> None:
        gradient = torch.tensor([3.0, 4.0])
        assert clip_(gradient, 10.0) == 5.0
        assert gradient.tolist() == [3.0, 4.0]
        assert clip_(gradient, None) == 5.0
        assert clip_(gradient, 1.0) == 5.0
        torch.testing.assert_close(gradient, torch.tensor([0.6, 0.8]))
