"""What the demo's pictures are compared with, and the figures of its summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patina.demo.judge import Pixels, StyleJudge, content_matches


@dataclass(frozen=True)
class HeldOutEmoji:
    """The 100 emoji never uploaded: prompts in the trained style, short names, real pictures row for row."""

    prompts: list[str]
    names: list[str]
    twemoji: Pixels
    noto: Pixels


def load_held_out(folder: Path) -> HeldOutEmoji:
    """Read ``datasets/emoji-judge``: ``twemoji/`` and ``noto/`` hold the same emoji in the same order."""
    twemoji, noto = (_rows(folder / style) for style in ("twemoji", "noto"))
    prompts = [row["text"] for row in twemoji]
    pictures = [
        read_pictures([folder / style / row["file_name"] for row in rows])
        for style, rows in (("twemoji", twemoji), ("noto", noto))
    ]
    return HeldOutEmoji(prompts, [prompt.partition(",")[0] for prompt in prompts], *pictures)


def measure(judge: StyleJudge, held_out: HeldOutEmoji, base: Pixels, lora: Pixels) -> dict[str, Any]:
    """Style: share the judge calls Twemoji. Content: share whose nearest real picture is the same emoji."""
    noto_right = float((~judge.calls_twemoji(held_out.noto)).mean())
    twemoji_right = float(judge.calls_twemoji(held_out.twemoji).mean())
    real = [held_out.twemoji, held_out.noto]
    return {
        "judge_accuracy": (noto_right + twemoji_right) / 2,
        "judge_accuracy_each": {"twemoji": twemoji_right, "noto": noto_right},
        "style_base": float(judge.calls_twemoji(base).mean()),
        "style_lora": float(judge.calls_twemoji(lora).mean()),
        "content_base": float(content_matches(base, real, held_out.names).mean()),
        "content_lora": float(content_matches(lora, real, held_out.names).mean()),
    }


def read_pictures(files: Sequence[Path]) -> Pixels:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def _rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
