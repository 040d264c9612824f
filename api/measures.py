"""What a caption and a picture will become in training: CLIP tokens, bucket and crop. Knows no nouns."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from contracts.buckets import Bucket, bucket_table, default_step_px
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


def buckets(resolution_px: int | None, native_px: int | None) -> tuple[Bucket, ...] | None:
    """The buckets of a run with the recipes' defaults on a base of this native size; None when nobody asked for any.

    A resolution without a base is taken for its base's native size.
    """
    side_px, base_px = resolution_px or native_px, native_px or resolution_px
    return bucket_table(side_px, default_step_px(base_px), MAX_ASPECT) if side_px and base_px else None


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)
