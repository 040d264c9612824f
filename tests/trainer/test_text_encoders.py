"""Runs that train the text encoders beside the UNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import trainer.run
from contracts import events
from contracts.lora import TEXT_ENCODERS
from contracts.rundir import RunDir, Stopped
from sdxl.base import load_base
from sdxl.lora import attach
from tests.trainer.tiny import (
    command,
    environment,
    events_of,
    launch,
    losses,
    make_recipe,
    outcome_of,
    same,
    stop_after,
    train,
    weights_of,
)

BOTH = {
    "steps": 3,
    "lora__text_encoder": {"rank": 2, "alpha": 4.0, "learning_rate": 0.002},
    "lora__text_encoder_2": {"rank": 3},
    "held_out__every_steps": None,
    "preview__every_steps": None,
}


@pytest.fixture(scope="module")
def trained(base_dir: Path, pictures: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    assert train(make_recipe(folder / "r.yaml", base_dir, pictures, **BOTH), folder / "run", cache_dir) == 0
    return folder / "run"


class TestBothTextEncoders:
    def test_every_tensor_of_every_component_moves_and_no_base_does(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gathered, start = [], {}
        gather = trainer.run.gather

        def spying(*given):
            gathered.append(gather(*given))
            start.update({k: t.clone() for k, t in gathered[0].objective.model.state().items()})
            return gathered[0]

        monkeypatch.setattr(trainer.run, "gather", spying)
        assert train(make_recipe(tmp_path / "r.yaml", base_dir, pictures, **BOTH), tmp_path / "run", cache_dir) == 0
        model = gathered[0].objective.model
        still = [key for key, tensor in model.state().items() if torch.equal(tensor, start[key])]
        # SDXL reads CLIP-L's states before its last layer, which therefore learns nothing.
        assert all(key.startswith("text_encoder.text_model.encoder.layers.1.") for key in still)
        assert {key.partition(".")[0] for key in start} == {"unet", *TEXT_ENCODERS}
        unet = load_base(base_dir, dtype=torch.float32, components={"unet"}).unet
        alone = attach(unet, rank=4, alpha=8.0, targets="attn-ff", seed=3).state_dict()
        assert all(torch.equal(start[key], tensor) for key, tensor in alone.items())
        model.bank.detach()
        plain = load_base(base_dir, dtype=torch.float32)
        for component in ("unet", *TEXT_ENCODERS):
            assert same(getattr(plain, component).state_dict(), getattr(model.base, component).state_dict())

    def test_the_weights_hold_all_components_each_with_its_own_rank(self, trained: Path) -> None:
        ranks = {
            (key.partition(".")[0], len(tensor)) for key, tensor in weights_of(trained).items() if ".lora_A." in key
        }
        assert ranks == {("unet", 4), ("text_encoder", 2), ("text_encoder_2", 3)}
        assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight" in weights_of(trained)

    def test_each_has_its_own_learning_rate_and_the_run_says_that_captions_are_not_cached(self, trained: Path) -> None:
        said = events_of(trained)
        step = next(event for event in said if isinstance(event, events.StepDone))
        assert step.learning_rates == {"unet": 0.01, "text_encoder": 0.002, "text_encoder_2": 0.01}
        assert any("captions are not cached" in event.message for event in said if isinstance(event, events.Warned))

    def test_stopped_and_started_again_ends_in_the_same_weights(
        self,
        trained: Path,
        base_dir: Path,
        pictures: Path,
        cache_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run_dir = RunDir(tmp_path / "run")
        stop_after(1, run_dir.root, monkeypatch)
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **BOTH)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert outcome_of(run_dir.root) == Stopped(step=1)
        assert train(recipe, run_dir.root, cache_dir) == 0
        assert same(weights_of(run_dir.root), weights_of(trained))

    @pytest.mark.slow
    def test_two_gloo_ranks_equal_two_accumulated_batches(
        self, trained: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **BOTH, gradient_accumulation_steps=1)
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = launch(
            [*words, *command(recipe, tmp_path / "run", cache_dir)],
            environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert same(weights_of(tmp_path / "run"), weights_of(trained))
        assert losses(tmp_path / "run") == losses(trained)


class TestPatternsThatFitNothing:
    def test_are_refused_by_name_before_anything_is_encoded(
        self, base_dir: Path, pictures: Path, tmp_path: Path
    ) -> None:
        patterns = {
            "lora__rank_pattern": {"*.to_q": 2, "*.to_qq": 2},
            "lora__alpha_pattern": {"*.conv1": 1.0},
            "lora__strength_pattern": {"*.to_k": 0.5, "*.to_kk": 0.5},
        }
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **patterns)
        assert train(recipe, tmp_path / "run", tmp_path / "cache") == 1
        assert "a name that fits *.to_qq, *.conv1, *.to_kk." in RunDir(tmp_path / "run").outcome.read_text()
        assert not (tmp_path / "cache" / "texts").exists()
