"""Caption sidecars as they are offered. Knows nothing about files, metadata or the database."""

from __future__ import annotations

import codecs

MAX_CAPTION_FILE_BYTES = 1024**2


def decoded_text(data: bytes) -> str | None:
    """UTF-8, or UTF-16 that says so in its first two bytes, as Windows' editors write it; None when it is neither."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    # UTF-16 that does not say so is valid UTF-8, with a zero beside every letter.
    return None if "\0" in text else text
