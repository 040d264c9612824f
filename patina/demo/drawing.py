"""The demo's two pictures: the before/after grid and the loss curve. Knows nothing about where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from patina.demo.judge import Pixels

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CELL_PX = 68
CAPTION_PX = 150
HEADER_PX = 22
CAPTION_CHARACTERS = 22


def draw_grid(captions: Sequence[str], columns: dict[str, Pixels], target: Path, across: int = 4) -> None:
    """One row a caption with a picture of each column; ``across`` rows side by side.

    Args:
        captions: what each row shows.
        columns: heading -> uint8 [N, 64, 64, 3], row for row the captions.
    """
    down = -(-len(captions) // across)
    block = CAPTION_PX + CELL_PX * len(columns)
    grid = Image.new("RGB", (block * across, HEADER_PX + CELL_PX * down), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=11)
    for side in range(across):
        for column, heading in enumerate(columns):
            draw.text((side * block + CAPTION_PX + column * CELL_PX + 2, 5), heading, fill="#555555", font=font)
    for index, caption in enumerate(captions):
        left, top = index // down * block, HEADER_PX + index % down * CELL_PX
        draw.multiline_text((left + 6, top + 18), _wrapped(caption), fill="black", font=font)
        for column, pixels in enumerate(columns.values()):
            grid.paste(Image.fromarray(pixels[index]), (left + CAPTION_PX + column * CELL_PX + 2, top + 2))
    grid.save(target)


def draw_loss(steps: Sequence[int], losses: Sequence[float], held_out: dict[int, float], target: Path) -> None:
    """Training loss, raw and smoothed, with the held-out loss where it was measured."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot(steps, losses, color="#c9d6e8", linewidth=0.7, label="each step")
    axes.plot(steps, _smoothed(losses), color="#2b5c9e", linewidth=1.6, label="smoothed")
    axes.plot(list(held_out), list(held_out.values()), "o-", color="#c2562d", label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def _wrapped(caption: str) -> str:
    words, lines = caption.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= CAPTION_CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:3])


def _smoothed(values: Sequence[float], decay: float = 0.96) -> list[float]:
    """Exponential average with its start corrected (as Adam corrects its moments)."""
    average, smoothed = 0.0, []
    for count, value in enumerate(values, start=1):
        average = decay * average + (1 - decay) * value
        smoothed.append(average / (1 - decay**count))
    return smoothed
