"""Stochastic rounding keeps the mean, which rounding to nearest does not."""

from __future__ import annotations

import torch

from trainer.rounding import round_to_bf16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestRoundToBf16:
    def test_goes_up_as_often_as_the_number_is_near_the_upper_one(self) -> None:
        step = 2.0**-7
        for sign in (1.0, -1.0):
            values = torch.full((200_000,), sign * (1 + 0.25 * step))
            rounded = round_to_bf16(values, generator()).float() * sign
            assert set(rounded.unique().tolist()) == {1.0, 1 + step}
            assert abs((rounded > 1).float().mean().item() - 0.25) < 0.005
            assert values.to(torch.bfloat16).float().abs().eq(1.0).all()

    def test_leaves_what_bf16_holds_alone(self) -> None:
        values = torch.randn(1000, generator=generator()).to(torch.bfloat16).float()
        assert torch.equal(round_to_bf16(torch.cat([values, torch.zeros(1)]), generator())[:1000].float(), values)

    def test_depends_on_the_generators_key_alone(self) -> None:
        values = torch.randn(1000, generator=generator())
        assert torch.equal(round_to_bf16(values, generator(1)), round_to_bf16(values, generator(1)))
        assert not torch.equal(round_to_bf16(values, generator(1)), round_to_bf16(values, generator(2)))

    def test_sums_up_updates_too_small_for_rounding_to_nearest(self) -> None:
        weights = torch.ones(1000, dtype=torch.bfloat16)
        for number in range(100):
            weights = round_to_bf16(weights.float() + 1e-4, generator(number))
        assert abs(weights.float().mean().item() - 1.01) < 1e-3
        assert (torch.ones(1, dtype=torch.bfloat16) + 1e-4).item() == 1.0
