"""What a caption and a picture will become in training: CLIP tokens, bucket and crop. Knows no nouns."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from contracts.buckets import Placement, bucket_table, default_step_px, place
from contracts.train import DataSettings
from sdxl.tokens import count_tokens, cut_off, load_tokenizer

MAX_ASPECT = float(DataSettings().max_aspect)


def count(folder: Path, caption: str | None) -> tuple[int, str | None] | None:
    """Tokens of a caption and the end of it that is not read; None without a caption or a vocabulary."""
    tokenizer = _tokenizer(folder)
    if caption is None or tokenizer is None:
        return None
    return count_tokens(tokenizer, caption), cut_off(tokenizer, caption) or None


def placed(width: int, height: int, resolution_px: int) -> Placement:
    """The bucket and crop of a picture in a run at this resolution with the recipes' defaults."""
    return place(width, height, bucket_table(resolution_px, default_step_px(resolution_px), MAX_ASPECT))


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer | None:
    there = (folder / "vocab.json").is_file() or (folder / "tokenizer.json").is_file()
    return load_tokenizer(folder) if there else None
