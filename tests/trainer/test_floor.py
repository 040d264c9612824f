"""How a step compares with its floor: measured when training is over, and without a trace in the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contracts import events
from contracts.buckets import Bucket, GlobalBatch
from contracts.train import parse_config
from sdxl.conditioning import Conditioning
from tests.trainer.tiny import events_of, make_recipe, outcome_of, same, train, weights_of
from trainer.feed import Inputs
from trainer.floor import Paces, floor_seconds
from trainer.processes import Processes
from trainer.weights import Trainable, load_trainable

SQUARE, TALL = Bucket(64, 64), Bucket(48, 80)


class TestARun:
    def test_ends_by_saying_how_many_times_its_floor_a_step_took_and_learns_the_same(
        self, base_dir: Path, pictures: Path, cache_dir: Path, finished: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, measure_floor=True)
        assert train(recipe, tmp_path / "run", cache_dir) == 0
        said = events_of(tmp_path / "run")
        (paced,) = (event for event in said if isinstance(event, events.Paced))
        assert paced.step == 6
        assert paced.ratio == pytest.approx(paced.step_s / paced.floor_s)
        assert min(paced.step_s, paced.floor_s) > 0
        assert said.index(paced) == len(said) - 2
        assert outcome_of(tmp_path / "run").state == "completed"
        assert not any(isinstance(event, events.Paced) for event in events_of(finished)), "it is not to measure"
        assert same(weights_of(tmp_path / "run"), weights_of(finished))


class TestTheUsualStep:
    def test_is_of_the_shape_most_steps_had_and_forgets_the_first_that_warmed_up(self) -> None:
        paces = Paces(Processes(0, 1, torch.device("cpu")), accumulation=2)
        for step, (bucket, samples, seconds) in enumerate(
            [(SQUARE, 4, 9.0), (TALL, 4, 5.0), (SQUARE, 3, 1.0), (SQUARE, 4, 2.0), (SQUARE, 2, 1.0), (SQUARE, 4, 4.0)],
            start=1,
        ):
            paces.add(step, [GlobalBatch(0, bucket, tuple(range(samples)))], seconds)
        usual = paces.usual()
        assert usual is not None
        assert usual.step == 1
        assert usual.slices == [(0, 1), (2, 3)]
        assert usual.median_s == 3.0

    def test_of_no_step_is_none(self) -> None:
        assert Paces(Processes(0, 1, torch.device("cpu")), accumulation=1).usual() is None


class TestTheFloor:
    @pytest.mark.parametrize("method", ["lora", "full"])
    def test_leaves_the_model_as_it_was(self, base_dir: Path, method: str) -> None:
        config = parse_config({"method": method, "precision": "fp32", "lora": {"rank": 2, "alpha": 2.0}})
        model = load_trainable(base_dir, config, torch.device("cpu"))
        torch.nn.init.normal_(model.parameters.vector, std=0.02)
        inputs = _inputs(model)
        trained = {name for name, one in model.base.unet.named_parameters() if one.requires_grad}
        before, weights = _predict(model, inputs), model.parameters.vector.clone()
        assert floor_seconds(model, [inputs, inputs], 1.0) > 0
        assert {name for name, one in model.base.unet.named_parameters() if one.requires_grad} == trained
        assert torch.equal(model.parameters.vector, weights)
        assert not model.parameters.gradient.any()
        assert torch.equal(_predict(model, inputs), before)


def _inputs(model: Trainable) -> Inputs:
    settings, generator = model.base.unet.config, torch.Generator().manual_seed(0)
    pooled = settings.projection_class_embeddings_input_dim - 6 * settings.addition_time_embed_dim
    latents = torch.randn(1, settings.in_channels, 8, 8, generator=generator)
    text = torch.randn(1, 77, settings.cross_attention_dim, generator=generator)
    words = Conditioning(text, torch.randn(1, pooled, generator=generator))
    return Inputs(latents, torch.zeros_like(latents), torch.tensor([500]), words, torch.full((1, 6), 64.0))


@torch.no_grad()
def _predict(model: Trainable, inputs: Inputs) -> torch.Tensor:
    added = {"text_embeds": inputs.conditioning.pooled, "time_ids": inputs.time_ids}
    predicted: torch.Tensor = model.base.unet(
        inputs.latents, inputs.timesteps, inputs.conditioning.text, added_cond_kwargs=added, return_dict=False
    )[0]
    return predicted
