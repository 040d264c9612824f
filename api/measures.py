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
    # Looked for each time: a base may come while the server runs.
    if caption is None or not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        return None
    tokenizer = _tokenizer(folder)
    return count_tokens(tokenizer, caption), cut_off(tokenizer, caption) or None


def placed(width: int, height: int, resolution_px: int) -> Placement:
    """The bucket and crop of a picture in a run at this resolution with the recipes' defaults."""
    return place(width, height, bucket_table(resolution_px, default_step_px(resolution_px), MAX_ASPECT))


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)
