"""Amounts of memory and of disk, in words and back. GB is meant as it is of graphics cards: 2^30 bytes."""

from __future__ import annotations

import re

GIB = 2**30

_UNITS = {"MB": 2**20, "MIB": 2**20, "GB": GIB, "GIB": GIB, "TB": 2**40, "TIB": 2**40}


def parse_bytes(text: str) -> int:
    """``8GB`` as bytes.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is no amount of memory such as 8GB or 12.5GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def size(count: float) -> str:
    """Bytes in a unit that leaves a number a person can read."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
