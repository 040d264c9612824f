"""The form a run's LoRA is published in: read whole by whoever gets it, and said where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer

from contracts.events import Warned
from contracts.failures import InvalidInput
from contracts.train import parse_config
from inference.engine import AdapterUse, Engine, EngineRequest
from sdxl.dialects import read
from sdxl.files import BaseFiles
from tests.trainer.tiny import events_of, make_recipe, train
from trainer.dialect import published_dialect

SHORT = {
    "steps": 1, "optimizer__warmup_steps": 0, "preview__prompts": [], "held_out__every_steps": None,
    "measure_floor": False,
}  # fmt: skip


def said_of_the_form(run_dir: Path) -> list[str]:
    return [e.message for e in events_of(run_dir) if isinstance(e, Warned) and "will be written in" in e.message]


class TestThePublishedFile:
    def test_is_kohyas_and_in_the_stock_pipeline_every_module_acts_and_the_picture_is_the_engines(
        self, finished: Path, base_dir: Path
    ) -> None:
        path = finished / "weights" / "tiny.safetensors"
        adapter = read(path)
        assert (adapter.dialect, adapter.rank, adapter.alpha) == ("kohya", 4, 8.0)
        assert adapter.header is not None
        assert adapter.metadata["modelspec.trigger_phrase"] == "tok style"
        assert said_of_the_form(finished) == []
        asked = EngineRequest("red heart", (3,), 64, 64, steps=2)
        with_it = EngineRequest("red heart", (3,), 64, 64, steps=2, adapters=(AdapterUse("it", path),))
        plain, ours = Engine(base_dir).generate_unit([asked, with_it])
        pipe = StableDiffusionXLPipeline.from_pretrained(base_dir, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.load_lora_weights(path)
        layers = [module for module in pipe.unet.modules() if isinstance(module, LoraLayer)]
        acting = sum(bool(layer.get_delta_weight(*layer.active_adapters).any()) for layer in layers)
        assert acting == len(adapter.modules) > 50
        drawn = torch.Generator().manual_seed(3)
        stock = pipe("red heart", num_inference_steps=2, guidance_scale=5.0, generator=drawn, output_type="np").images
        assert np.abs(np.asarray(ours) - stock).max() < 1e-4
        assert np.abs(np.asarray(plain) - stock).max() > 1e-3

    @pytest.mark.parametrize(
        ("changes", "dialect", "words"),
        [
            ({"lora__dora": True}, "diffusers", "ComfyUI reads none of the UNet's attention layers"),
            ({"lora__alpha_pattern": {"*.to_q": 2.0}}, "kohya", "Alpha differs inside a component"),
            ({"output_dialect": "diffusers"}, "diffusers", "ComfyUI reads none of the UNet's attention layers"),
            ({"output_dialect": "kohya", "lora__dora": True}, "kohya", "diffusers 0.42 drops it"),
        ],
    )
    def test_is_in_the_form_that_fits_or_is_asked_for_and_the_run_says_who_misreads_it(
        self, changes: dict[str, Any], dialect: str, words: str,
        base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path,
    ) -> None:  # fmt: skip
        assert (
            train(make_recipe(tmp_path / "r.yaml", base_dir, pictures, **SHORT, **changes), tmp_path / "run", cache_dir)
            == 0
        )
        assert read(tmp_path / "run" / "weights" / "tiny.safetensors").dialect == dialect
        (said,) = said_of_the_form(tmp_path / "run")
        assert words in said


class TestPublishedDialect:
    def test_is_diffusers_where_kohyas_names_mean_other_blocks_and_kohyas_is_then_refused(self, tmp_path: Path) -> None:
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_text(json.dumps({"layers_per_block": 3}))
        base = BaseFiles(tmp_path, tmp_path, tmp_path, single_file=False)
        assert published_dialect(parse_config({}), base) == "diffusers"
        with pytest.raises(InvalidInput, match="two layers a block") as caught:
            published_dialect(parse_config({"output_dialect": "kohya"}), base)
        assert caught.value.errors[0].pointer == "/output_dialect"

    def test_is_no_matter_of_a_full_fine_tune(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_config({"method": "full", "output_dialect": "kohya"})
        assert [error.pointer for error in caught.value.errors] == ["/output_dialect"]
