from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from sdxl.base import load_base
from sdxl.conditioning import encode_prompts, unconditional
from sdxl.sampling import decode, sample, to_bytes

PROMPTS = ["red heart", "a face"]
SEEDS = [3, 4]


def ours(base, prompts=PROMPTS, seeds=SEEDS, *, steps=4, guidance=5.0, size=(64, 64), on_step=None):
    return sample(
        base,
        encode_prompts(base, prompts),
        negative=unconditional(base, len(prompts)) if np.max(guidance) > 1 else None,
        seeds=seeds,
        steps=steps,
        guidance_scale=guidance,
        width=size[0],
        height=size[1],
        on_step=on_step,
    )


class TestSample:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    @pytest.mark.parametrize(("guidance", "size"), [(5.0, (64, 64)), (1.0, (96, 64))])
    def test_equals_the_stock_pipeline(self, tiny_base, tmp_path, prediction_type, guidance, size):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": prediction_type}))
        pipe = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        stock = pipe(
            PROMPTS,
            num_inference_steps=4,
            guidance_scale=guidance,
            width=size[0],
            height=size[1],
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type="np",
        ).images
        found = ours(load_base(folder, dtype=torch.float32), guidance=guidance, size=size)
        assert found.shape == (2, size[1], size[0], 3)
        assert found.std() > 0.01
        assert np.abs(found - stock).max() < 1e-4

    def test_a_picture_does_not_depend_on_its_neighbours(self, base):
        together = ours(base, guidance=[3.0, 7.0])
        alone = ours(base, PROMPTS[1:], SEEDS[1:], guidance=7.0)
        assert np.abs(together[1] - alone[0]).max() < 1e-4
        assert np.abs(together[0] - ours(base, PROMPTS[:1], SEEDS[:1], guidance=7.0)[0]).max() > 1e-3

    def test_leaves_the_global_generator_alone_and_tells_of_progress(self, base):
        before = torch.get_rng_state()
        seen = []
        ours(base, on_step=lambda done, steps: seen.append((done, steps)))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.gpu
    def test_runs_in_half_precision_on_a_gpu(self, tiny_base):
        found = ours(load_base(tiny_base, dtype=torch.bfloat16, device="cuda"))
        assert np.isfinite(found).all()


class TestDecode:
    def test_is_in_fp32_also_under_the_autocast_of_a_full_fine_tune(self, base):
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16):
            inside = decode(base, latents)
        assert np.array_equal(inside, decode(base, latents))


class TestToBytes:
    def test_rounds_to_nearest(self):
        assert to_bytes(np.float32([0.0, 0.5, 1.0, 1.6 / 255])).tolist() == [0, 128, 255, 2]
