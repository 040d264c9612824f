"""Random choices that depend on their key alone."""

from __future__ import annotations

import torch

from trainer.draws import channel_shift, draw


class TestDraw:
    def test_depends_on_the_key_and_not_on_global_state(self) -> None:
        torch.manual_seed(1)
        first = draw(0, 5, 7, timesteps=range(1000), shape=(4, 2, 2))
        torch.manual_seed(2)
        state = torch.get_rng_state()
        second = draw(0, 5, 7, timesteps=range(1000), shape=(4, 2, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert first.timestep == second.timestep
        assert torch.equal(first.noise, second.noise)
        assert not torch.equal(first.noise, first.posterior)

    def test_every_part_of_the_key_counts(self) -> None:
        noises = [
            draw(*key, timesteps=range(1000), shape=(4,)).noise for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3)]
        ]
        assert len({tuple(noise.tolist()) for noise in noises}) == 4

    def test_covers_its_range(self) -> None:
        drawn = [draw(0, 1, sample, timesteps=range(10), shape=(1,)) for sample in range(300)]
        assert {one.timestep for one in drawn} == set(range(10))
        assert 100 < sum(one.flipped for one in drawn) < 200
        assert 0.4 < sum(one.caption_number for one in drawn) / 300 < 0.6

    def test_a_narrower_range_of_timesteps_changes_no_other_choice(self) -> None:
        whole, part = (draw(0, 1, 2, timesteps=steps, shape=(4, 2, 2)) for steps in (range(1000), range(200, 300)))
        assert torch.equal(whole.noise, part.noise)
        assert torch.equal(whole.posterior, part.posterior)
        assert (whole.flipped, whole.caption_number) == (part.flipped, part.caption_number)
        drawn = {draw(0, 1, sample, timesteps=range(200, 203), shape=(1,)).timestep for sample in range(50)}
        assert drawn == {200, 201, 202}


class TestChannelShift:
    def test_is_one_number_a_channel_from_its_key_alone(self) -> None:
        first = channel_shift(0, 1, 2, channels=4)
        assert first.shape == (4, 1, 1)
        assert torch.equal(first, channel_shift(0, 1, 2, channels=4))
        assert not torch.equal(first, channel_shift(0, 1, 3, channels=4))
