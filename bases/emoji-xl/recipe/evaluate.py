"""Judge a base by what it draws: nearest Noto neighbours, the red heart, the VAE's round trip, a sample sheet."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from pictures import STYLES, TWEMOJI, Pictures, datasource_picture, is_held_out, load_pictures
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from vae import round_trip_psnr

CAPTIONS = 200
STEPS = 25
GUIDANCE = 4.0
BATCH = 50
SHEET_COLUMNS = 12
SHEET_ROWS = 8


def evaluate(base: Path, work: Path) -> dict[str, float | bool]:
    """Print and store (evaluation.json, samples.png) how the base in ``base`` does against the bars."""
    pictures = load_pictures(work / "downloads")
    pipeline = load_pipeline(base)
    figures: dict[str, float | bool] = {**neighbours(pipeline, pictures, base / "samples.png")}
    figures["red_heart_is_red"] = red_heart_is_red(pipeline)
    figures |= vae_figures(pipeline.vae, pictures, work / "downloads")
    (base / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)
    return figures


def load_pipeline(base: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: StableDiffusionXLPipeline, prompts: list[str], seed: int) -> np.ndarray:
    """One uint8 [64, 64, 3] picture a prompt, picture k from seed + k, in the stock pipeline."""
    made = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(part))]
        output = pipeline(
            part,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=64,
            width=64,
            generator=generators,
            output_type="np",
        )
        made.append((output.images * 255).round().astype(np.uint8))
    return np.concatenate(made)


def neighbours(pipeline: StableDiffusionXLPipeline, pictures: Pictures, sheet: Path) -> dict[str, float]:
    """Share of captions, drawn by seed, whose picture's nearest Noto picture has the right name, subcategory."""
    noto = pictures.of_style("noto")
    rows = random.Random(0).sample(range(len(noto.emoji)), CAPTIONS)
    made = generate(pipeline, [noto.emoji[row].caption("noto") for row in rows], seed=0)
    nearest = nearest_rows(made, noto.pixels)
    found = [(noto.emoji[n], noto.emoji[row]) for n, row in zip(nearest, rows, strict=True)]
    draw_sheet(made, noto.pixels[rows], [right.name for _, right in found], sheet)
    return {
        "right_name": float(np.mean([near.name == right.name for near, right in found])),
        "right_subcategory": float(np.mean([near.subcategory == right.subcategory for near, right in found])),
    }


def nearest_rows(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Index of the real picture with the least mean squared error, for each made one."""
    a = torch.from_numpy(made).flatten(1).double()
    b = torch.from_numpy(real).flatten(1).double()
    return torch.cdist(a, b).argmin(dim=1).numpy()


def red_heart_is_red(pipeline: StableDiffusionXLPipeline) -> bool:
    """Whether the coloured part of four drawn red hearts is mostly red."""
    pixels = generate(pipeline, ["red heart, heart, noto style"] * 4, seed=7).reshape(-1, 3).astype(int)
    coloured = pixels[pixels.max(axis=1) - pixels.min(axis=1) > 80]
    red = (coloured[:, 0] > 150) & (coloured[:, 1] < 110) & (coloured[:, 2] < 110)
    return bool(len(coloured) > 1000 and red.mean() > 0.7)


def vae_figures(vae: AutoencoderKL, pictures: Pictures, downloads: Path) -> dict[str, float]:
    """Round-trip PSNR in dB on held-out pictures of each style taught, and on Twemoji, never seen."""
    figures = {}
    for package in STYLES:
        style = pictures.of_style(package.style)
        rows = [row for row, emoji in enumerate(style.emoji) if is_held_out(emoji.unified)]
        figures[f"vae_psnr_{package.style}_db"] = round_trip_psnr(vae, torch.from_numpy(style.pixels[rows]))
    figures["vae_psnr_held_out_db"] = float(np.mean([figures[f"vae_psnr_{p.style}_db"] for p in STYLES]))
    codes = [emoji.unified for emoji in pictures.of_style("noto").emoji]
    unseen = np.stack([datasource_picture(TWEMOJI, code, downloads) for code in codes])
    figures["vae_psnr_twemoji_db"] = round_trip_psnr(vae, torch.from_numpy(unseen))
    return figures


def draw_sheet(made: np.ndarray, real: np.ndarray, names: list[str], target: Path) -> None:
    """Pairs of made (left) and real (right) pictures with their captions."""
    cell_width, cell_height = 136, 80
    sheet = Image.new("RGB", (SHEET_COLUMNS * cell_width, SHEET_ROWS * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for index in range(min(SHEET_COLUMNS * SHEET_ROWS, len(made))):
        left, top = index % SHEET_COLUMNS * cell_width, index // SHEET_COLUMNS * cell_height
        sheet.paste(Image.fromarray(made[index]), (left + 2, top))
        sheet.paste(Image.fromarray(real[index]), (left + 68, top))
        draw.text((left + 2, top + 65), names[index][:24], fill="black")
    sheet.save(target)


def show(figures: dict[str, float | bool]) -> None:
    bars = {
        "right_name": 0.80,
        "right_subcategory": 0.90,
        "red_heart_is_red": True,
        "vae_psnr_held_out_db": 22.0,
        "vae_psnr_twemoji_db": 20.0,
    }
    table = Table(
        "figure", "measured", "bar", "met", title=f"{CAPTIONS} captions, {STEPS} steps, guidance {GUIDANCE:g}"
    )
    for name, value in figures.items():
        shown = str(value) if isinstance(value, bool) else f"{value:.3f}"
        bar = bars.get(name)
        table.add_row(
            name, shown, "" if bar is None else str(bar), "" if bar is None else "yes" if value >= bar else "NO"
        )
    Console().print(table)
