"""Loss curves as a picture for the model card."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from loop import read_log

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_loss_curves(folders: dict[str, Path], target: Path) -> None:
    """One panel a training, logarithmic, from the logs the training left."""
    figure, panels = plt.subplots(1, len(folders), figsize=(5 * len(folders), 3.2), layout="constrained")
    for panel, (title, folder) in zip(panels, folders.items(), strict=True):
        steps, losses = read_log(folder)
        panel.plot(steps, losses, linewidth=0.8)
        panel.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        panel.grid(alpha=0.3)
    figure.savefig(target, dpi=110)
    plt.close(figure)
