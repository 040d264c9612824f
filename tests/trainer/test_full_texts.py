"""Full fine-tunes that train the text encoders beside the UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from contracts import events
from contracts.dataset import DatasetSummary
from contracts.lora import TEXT_ENCODERS
from contracts.memory import memory_parts
from contracts.rundir import Completed, RunDir
from contracts.train import parse_config
from inference.engine import Engine, EngineRequest
from sdxl import files as base_files
from sdxl.base import describe
from sdxl.files import open_base
from sdxl.formats import read_header, save_full
from sdxl.live import peak_bytes_of
from tests.trainer.tiny import events_of, make_recipe, outcome_of, train, weights_of
from trainer.texts import TrainedTexts
from trainer.weights import load_trainable

BOTH: dict[str, Any] = {
    "method": "full",
    "steps": 3,
    "optimizer__learning_rate": 1e-3,
    "full__text_encoder": {"learning_rate": 2e-3},
    "full__text_encoder_2": {},
    "held_out__every_steps": None,
    "preview__every_steps": None,
    "export__layouts": [],
    "ema": {"decay": 0.5},
}
UNMEASURED = DatasetSummary(digest="c" * 64, train_sizes={"64x64": 4}, train_images=4, held_out_images=0)
DEMO_BASE = Path(__file__).parents[2] / "bases" / "emoji-xl"
UNREAD = ("text_encoder.text_model.encoder.layers.1.", "text_encoder.text_model.final_layer_norm.")
"""SDXL reads CLIP-L's states before its last layer."""


@pytest.fixture(scope="module")
def trained(base_dir: Path, pictures: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("both")
    assert train(make_recipe(folder / "r.yaml", base_dir, pictures, **BOTH), folder / "run", cache_dir) == 0
    return RunDir(folder / "run")


class TestBothTextEncoders:
    def test_are_published_whole_beside_the_unet_and_all_that_is_read_of_them_has_moved(
        self, trained: RunDir, base_dir: Path
    ) -> None:
        files = open_base(base_dir)
        before = {
            f"{part}.{name}": tensor.float()
            for part in ("unet", *TEXT_ENCODERS)
            for name, tensor in base_files.tensors(files, part)
        }
        after = weights_of(trained.root)
        assert after.keys() == before.keys()
        still = {name for name in after if torch.equal(after[name], before[name])}
        assert {name for name in after if name.startswith(UNREAD)} <= still
        # Embeddings of tokens no caption has, and weights that are zero, do not keep their tensor as it is.
        assert [name for name in still if not name.startswith((*UNREAD, "unet."))] == []

    def test_each_has_its_own_learning_rate_and_captions_are_not_cached(self, trained: RunDir) -> None:
        said = events_of(trained.root)
        step = next(event for event in said if isinstance(event, events.StepDone))
        assert step.learning_rates == {"unet": 1e-3, "text_encoder": 2e-3, "text_encoder_2": 1e-3}
        assert any("captions are not cached" in event.message for event in said if isinstance(event, events.Warned))

    def test_measuring_goes_on_where_it_ended_in_a_run_that_starts_from_them(
        self, trained: RunDir, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(
            tmp_path / "r.yaml", base_dir, pictures, **BOTH | {"steps": 1, "optimizer__warmup_steps": 0}
        )
        weights = trained.weights / "tiny.safetensors"
        assert train(recipe, tmp_path / "run", cache_dir, "--init-weights", str(weights)) == 0
        before, after = outcome_of(trained.root), outcome_of(tmp_path / "run")
        assert isinstance(before, Completed)
        assert isinstance(after, Completed)
        assert after.held_out_loss_before == before.held_out_loss_after

    def test_the_engine_draws_what_the_last_preview_shows_and_another_picture_without_the_encoders(
        self, trained: RunDir, base_dir: Path, tmp_path: Path
    ) -> None:
        *_, shown = (event for event in events_of(trained.root) if isinstance(event, events.Preview))
        weights = trained.weights / "tiny.safetensors"
        header = read_header(weights)
        assert header is not None
        alone = {name.removeprefix("unet."): t for name, t in load_file(weights).items() if name.startswith("unet.")}
        save_full(tmp_path / "unet.safetensors", alone, header)
        engine = Engine(base_dir, dtype=torch.float32)
        size = {"width": 64, "height": 64, "steps": 2}
        plain, tuned, without, again = (
            picture[0]
            for picture in engine.generate(
                [
                    EngineRequest(shown.prompt, (shown.seed,), **size, full_weights=file)
                    for file in (None, weights, tmp_path / "unet.safetensors", None)
                ]
            )
        )
        assert differ(tuned, np.asarray(Image.open(trained.previews / shown.file))) <= 1
        assert min(differ(plain, tuned), differ(plain, without), differ(without, tuned)) > 3
        assert differ(plain, again) == 0

    @pytest.mark.parametrize("kept", [(), ("text_encoder_2",)])
    def test_a_run_that_does_not_train_them_all_is_refused_such_weights(
        self,
        kept: tuple[str, ...],
        trained: RunDir,
        base_dir: Path,
        pictures: Path,
        tmp_path: Path,
    ) -> None:
        changes = {name: value for name, value in BOTH.items() if not name.startswith("full__")}
        changes |= {f"full__{name}": {} for name in kept}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, **changes)
        weights = trained.weights / "tiny.safetensors"
        assert train(recipe, tmp_path / "run", tmp_path / "cache", "--init-weights", str(weights)) == 1
        assert "set full.text_encoder to go on with it" in RunDir(tmp_path / "run").outcome.read_text()
        assert not (tmp_path / "cache" / "texts").exists()


class TestPlanned:
    def test_a_step_has_alive_what_the_plan_says(self) -> None:
        config = parse_config(
            {"method": "full", "precision": "fp32", "full": {"text_encoder": {}, "text_encoder_2": {}}}
        )
        known = describe(DEMO_BASE)
        model = load_trainable(DEMO_BASE, config, torch.device("cpu"))
        base, side = model.base, known.native_px // known.vae_factor
        texts = TrainedTexts(base, None, model.compute, dropout=0.0, max_tokens=75)
        inputs = [torch.zeros(config.batch_size, *shape) for shape in ((4, side, side), (6,))]

        def step() -> None:
            words = texts.in_step(["a cat", None, "a dog", "a bird"], range(4))
            added = {"text_embeds": words.pooled, "time_ids": inputs[1]}
            predicted = base.unet(inputs[0], torch.zeros(4), words.text, added_cond_kwargs=added, return_dict=False)[0]
            (predicted - torch.zeros_like(predicted)).square().mean().backward()

        flat = model.parameters
        assert flat.gradient is not None
        networks = [getattr(base, name) for name in ("unet", *TEXT_ENCODERS)]
        resident = [*(p for n in networks for p in (*n.parameters(), *n.buffers())), flat.vector, flat.gradient]
        counted = peak_bytes_of(step, ignored=[*resident, *inputs])
        parts = memory_parts(config, known, UNMEASURED, positions=side**2)
        weights = flat.vector.nbytes + sum(tensor.nbytes for tensor in model.unread.values())
        planned = parts.weights + parts.gradients + parts.activations
        assert planned == pytest.approx(weights + flat.gradient.nbytes + counted, rel=0.05)


def differ(first: np.ndarray, second: np.ndarray) -> int:
    """The largest difference in 8 bits."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())
