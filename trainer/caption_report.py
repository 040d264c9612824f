"""What the run says of its captions before it starts: how many are missing, which ends no encoder reads.

Counted with each encoder's own tokenizer. Knows nothing about encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from tokenizers import Tokenizer

from contracts.dataset import VersionRow
from sdxl.files import BaseFiles
from sdxl.tokens import count_tokens, load_tokenizer
from trainer.captions import Captions

ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
NAMED = 5
"""Captions named in one message, those that lose most first."""


def caption_warnings(files: BaseFiles, rows: Sequence[VersionRow], captions: Captions, max_tokens: int) -> list[str]:
    """What a person should know of the captions of ``rows``, each in words."""
    found = []
    if without := sum(not row.caption for row in rows):
        found.append(f"{without} of {len(rows)} pictures have no caption")
    texts = [(row.source_name, captions.possible(row.caption)) for row in rows if row.caption]
    tokenizers = {name: load_tokenizer(files.tokenizer_dir / folder) for name, folder in ENCODERS.items()}
    return [*found, *truncation_warnings(texts, tokenizers, max_tokens)]


def truncation_warnings(
    texts: Sequence[tuple[str, Set[str]]], tokenizers: Mapping[str, Tokenizer], max_tokens: int
) -> list[str]:
    """Of each encoder: how many captions it does not read to their end, and which lose how much.

    Args:
        texts: of each caption the name of its picture, and what it can become; the longest counts.
        tokenizers: by encoder.
    """
    said: dict[str, list[str]] = {}
    for encoder, tokenizer in tokenizers.items():
        lost = [
            (name, over)
            for name, some in texts
            if (over := max(count_tokens(tokenizer, text) for text in some) - max_tokens) > 0
        ]
        if lost:
            worst = sorted(lost, key=lambda one: (-one[1], one[0]))[:NAMED]
            named = ", ".join(f"{name}: {over} tokens" for name, over in worst)
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            words = f"{len(lost)} of {len(texts)} captions are longer than {max_tokens} tokens; the end is not read: "
            said.setdefault(words + named + more, []).append(encoder)
    return [f"{' and '.join(encoders)}: {words}" for words, encoders in said.items()]
