"""Random choices that depend on their key alone."""

from __future__ import annotations

import torch

from trainer.draws import draw


class TestDraw:
    def test_depends_on_the_key_and_not_on_global_state(self) -> None:
        torch.manual_seed(1)
        first = draw(0, 5, 7, timesteps=1000, shape=(4, 2, 2))
        torch.manual_seed(2)
        state = torch.get_rng_state()
        second = draw(0, 5, 7, timesteps=1000, shape=(4, 2, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert first.timestep == second.timestep
        assert torch.equal(first.noise, second.noise)
        assert not torch.equal(first.noise, first.posterior)

    def test_every_part_of_the_key_counts(self) -> None:
        noises = [draw(*key, timesteps=1000, shape=(4,)).noise for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3)]]
        assert len({tuple(noise.tolist()) for noise in noises}) == 4

    def test_covers_its_range(self) -> None:
        drawn = [draw(0, 1, sample, timesteps=10, shape=(1,)) for sample in range(300)]
        assert {one.timestep for one in drawn} == set(range(10))
        assert 100 < sum(one.flipped for one in drawn) < 200
        assert 0.4 < sum(one.caption_number for one in drawn) / 300 < 0.6
