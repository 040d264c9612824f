from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import CLIPTokenizer

from sdxl.files import TOKENIZERS
from sdxl.tokens import MAX_TOKENS, count_tokens, load_tokenizer

CAPTIONS = ["", "Red  HEART, heart, noto style", "it's 1234 o'clock — naïve café 東京 🦊!!", "word " * 100]


class TestCountTokens:
    @pytest.mark.parametrize("caption", CAPTIONS)
    def test_counts_as_transformers_does(self, caption, tmp_path):
        theirs = CLIPTokenizer.from_pretrained(TOKENIZERS / "tokenizer")
        expected = len(theirs(caption, add_special_tokens=False)["input_ids"])
        assert count_tokens(load_tokenizer(TOKENIZERS / "tokenizer"), caption) == expected
        theirs.save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").is_file()
        assert count_tokens(load_tokenizer(tmp_path), caption) == expected

    def test_a_long_caption_is_over_the_limit(self):
        assert count_tokens(load_tokenizer(TOKENIZERS / "tokenizer"), CAPTIONS[-1]) == 100 > MAX_TOKENS

    def test_loads_no_torch(self):
        program = "import sdxl.tokens, sys; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
