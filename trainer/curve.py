"""The curve of the held-out loss as a picture, its best step marked: held_out.png in the run directory.

Drawn with Pillow alone. Knows nothing about how the losses came about.
"""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from trainer.held_out import Curve, best

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 50, 50
LINES = 4
"""Horizontal lines with their loss beside them."""
PAPER, GRID, INK, LINE, BEST = "white", "#dddddd", "#333333", "#2563eb", "#16a34a"


def draw_curve(curve: Curve) -> bytes:
    """A PNG of ``curve``, which has at least one point."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
    low, high = min(losses), max(losses)
    room = (high - low or abs(high) or 1.0) * 0.08
    low, high, last = low - room, high + room, max(steps) or 1

    def place(step: int, loss: float) -> tuple[float, float]:
        across = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)

    for number in range(LINES + 1):
        loss = low + (high - low) * number / LINES
        _, y = place(0, loss)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID)
        pen.text((LEFT - 10, y), f"{loss:.4g}", INK, font, anchor="rm")
    for step in sorted({0, last // 2, last}):
        pen.text((place(step, low)[0], HEIGHT - BOTTOM + 10), str(step), INK, font, anchor="ma")
    points = [place(*point) for point in curve]
    if len(points) > 1:
        pen.line(points, LINE, width=2, joint="curve")
    for point in points:
        pen.circle(point, 3, LINE)
    title = "held-out loss by step"
    if (found := best(curve)) is not None:
        pen.circle(place(*found), 7, outline=BEST, width=3)
        title += f"; best: {found[1]:.5g} after step {found[0]}"
    pen.text((LEFT, TOP / 2), title, INK, font, anchor="lm")
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()
