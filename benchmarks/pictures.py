"""Square pictures of random shapes with captions, for benchmarks to train on: an imagefolder that any trainer reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COARSE = 8
"""Side of what is drawn before it is enlarged."""


def write_pictures(folder: Path, count: int, side_px: int, *, held_out: int = 0) -> Path:
    """Write ``count`` PNG, the last ``held_out`` not to train on, and their metadata.jsonl; always the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(0)
    lines = []
    for number in range(count):
        pixels = drawn.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
        split = "train" if number < count - held_out else "held_out"
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"shapes, number {number}", "split": split}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
