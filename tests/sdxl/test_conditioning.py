from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from sdxl.conditioning import encode_prompts, join, prompt_chunks, time_ids, unconditional

PROMPTS = ["red heart, heart, noto style", "a word " * 100]


class TestEncodePrompts:
    def test_equals_the_stock_pipeline_also_when_a_prompt_is_too_long(self, base, tiny_base):
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, dtype=torch.float32)
        text, _, pooled, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
        ours = encode_prompts(base, PROMPTS)
        assert torch.equal(ours.text, text)
        assert torch.equal(ours.pooled, pooled)
        assert ours.text.shape == (2, 77, 64)


class TestLongPrompts:
    WORDS = " ".join(f"red{n}" if n % 2 else "heart" for n in range(60))

    def test_up_to_75_tokens_are_read_as_ever(self, base):
        ours = encode_prompts(base, PROMPTS[:1], max_tokens=225)
        assert torch.equal(ours.text, encode_prompts(base, PROMPTS[:1]).text)
        assert torch.equal(ours.pooled, encode_prompts(base, PROMPTS[:1]).pooled)

    @pytest.mark.parametrize("which", ["tokenizer", "tokenizer_2"])
    def test_a_chunk_is_what_the_tokenizer_makes_of_its_part_alone(self, base, which):
        tokenizer = getattr(base, which)
        whole = tokenizer(self.WORDS, add_special_tokens=False)["input_ids"]
        chunks = prompt_chunks(tokenizer, self.WORDS, 225)
        assert len(chunks) == 2 < len(whole) / 50
        assert [token for chunk in chunks for token in chunk[1:76]][: len(whole)] == whole
        assert prompt_chunks(tokenizer, "red heart", 225) == [tokenizer("red heart", padding="max_length")["input_ids"]]
        assert prompt_chunks(tokenizer, "", 75) == [tokenizer("", padding="max_length")["input_ids"]]
        assert len(prompt_chunks(tokenizer, "word " * 1000, 150)) == 2

    def test_chunks_lie_one_after_the_other_and_the_first_one_is_pooled(self, base):
        first, second = "word " * 75, "red heart"
        long = encode_prompts(base, [first + second], max_tokens=150)
        apart = [encode_prompts(base, [text]) for text in (first, second)]
        assert long.text.shape == (1, 154, 64)
        assert torch.allclose(long.text, torch.cat([part.text for part in apart], dim=1), atol=1e-6)
        assert torch.allclose(long.pooled, apart[0].pooled, atol=1e-6)

    def test_a_prompt_beside_a_longer_one_has_the_same_effect(self, base):
        unet, sizes = base.unet, torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        short, two, three = (encode_prompts(base, ["word " * n], max_tokens=225) for n in (9, 90, 190))
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        together = join([short, two, three])
        assert together.text.shape[1] == 6 * 77

        def predicted(what, count):
            added = {"text_embeds": what.pooled, "time_ids": sizes.expand(count, -1)}
            with torch.no_grad():
                return unet(latents.expand(count, -1, -1, -1), 500, what.text, added_cond_kwargs=added).sample

        alone = torch.cat([predicted(one, 1) for one in (short, two, three)])
        assert torch.allclose(predicted(together, 3), alone, atol=1e-5)
        assert not torch.allclose(alone[0], alone[1], atol=1e-4)


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
