from __future__ import annotations

import dataclasses

import torch
from diffusers import StableDiffusionXLPipeline

from sdxl.conditioning import encode_prompts, time_ids, unconditional

PROMPTS = ["red heart, heart, noto style", "a word " * 100]


class TestEncodePrompts:
    def test_equals_the_stock_pipeline_also_when_a_prompt_is_too_long(self, base, tiny_base):
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, dtype=torch.float32)
        text, _, pooled, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
        ours = encode_prompts(base, PROMPTS)
        assert torch.equal(ours.text, text)
        assert torch.equal(ours.pooled, pooled)
        assert ours.text.shape == (2, 77, 64)


class TestUnconditional:
    def test_is_zero_where_the_base_says_so(self, base):
        nothing = unconditional(base, 3)
        assert nothing.text.shape == (3, 77, 64)
        assert not nothing.text.any()
        assert not nothing.pooled.any()

    def test_is_the_empty_prompt_elsewhere(self, base):
        nothing = unconditional(dataclasses.replace(base, force_zeros_for_empty_prompt=False))
        assert torch.equal(nothing.text, encode_prompts(base, [""]).text)


class TestTimeIds:
    def test_puts_height_before_width(self):
        assert time_ids((10, 20), (1, 2), (30, 40)).tolist() == [10, 20, 1, 2, 30, 40]
