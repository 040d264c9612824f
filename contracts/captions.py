"""What becomes of a caption before it is encoded: pure text, the same for plan, ledger and trainer."""

from __future__ import annotations

import re
import unicodedata

MAX_CAPTION_CHARACTERS = 10_000

SPECIAL_TOKEN = re.compile(r"<\|\s*(startoftext|endoftext)\s*\|>", re.IGNORECASE)
"""What CLIP's tokenizers take for the beginning or the end of a text, wherever it stands."""


def clean_caption(text: str) -> str:
    """NFC, control characters out, white space collapsed; CLIP's special tokens become words like others."""
    text = unicodedata.normalize("NFC", text)
    visible = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return SPECIAL_TOKEN.sub(r"< |\1| >", " ".join(visible.split()))


def with_trigger(caption: str, trigger_word: str | None) -> str:
    """The caption with the trigger word in front, unless it already contains it (in any case)."""
    if trigger_word is None or trigger_word.casefold() in caption.casefold():
        return caption
    return f"{trigger_word}, {caption}" if caption else trigger_word
