"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from trainer.average import Average, decay_of


class TestAverage:
    def test_is_the_weighted_mean_of_all_steps(self) -> None:
        live = torch.tensor([1.0, -2.0])
        average = Average(live, 0.5)
        wanted = live.double()
        for step in (1, 2, 3, 40):
            live.add_(step)
            average.update(step)
            decay = min(0.5, (1 + step) / (10 + step))
            wanted = decay * wanted + (1 - decay) * live.double()
        torch.testing.assert_close(average.vector.double(), wanted)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_takes_the_live_weights_place_and_gives_it_back_bit_for_bit(self, dtype: torch.dtype) -> None:
        live = torch.randn(10_000_000).to(dtype)
        average = Average(live, 0.9)
        live.add_(1)
        average.update(1)
        before, averaged = live.clone(), average.vector.clone()
        with average.in_place():
            assert torch.equal(live, averaged.to(dtype))
        assert torch.equal(live, before)
        assert torch.equal(average.vector, averaged)

    def test_gives_it_back_when_what_is_done_meanwhile_fails(self) -> None:
        live = torch.ones(3)
        average = Average(live, 0.9)
        live.zero_()
        with pytest.raises(KeyError), average.in_place():
            raise KeyError
        assert not live.any()


class TestDecay:
    def test_grows_into_what_was_asked(self) -> None:
        assert decay_of(1, 0.999) == pytest.approx(2 / 11)
        assert decay_of(100_000, 0.999) == 0.999
