"""What becomes of a caption before it is encoded: pure text, the same for plan, ledger and trainer."""

from __future__ import annotations

import unicodedata

MAX_CAPTION_CHARACTERS = 10_000


def clean_caption(text: str) -> str:
    """NFC, control characters out, white space collapsed."""
    text = unicodedata.normalize("NFC", text)
    visible = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join(visible.split())


def with_trigger(caption: str, trigger_word: str | None) -> str:
    """The caption with the trigger word in front, unless it already contains it (in any case)."""
    if trigger_word is None or trigger_word.casefold() in caption.casefold():
        return caption
    return f"{trigger_word}, {caption}" if caption else trigger_word
