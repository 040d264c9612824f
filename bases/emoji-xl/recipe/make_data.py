"""Make datasets/ from the npm packages: the Twemoji training set, the judge's held-out pictures, the judge.

The 300 emoji are drawn by seed from those a 64 px picture can tell apart: no flags, no families, no
man/woman variants of one role. The judge is fitted on VAE round trips of everything else, both styles, as
they are, with a part of their error, with noise in the latents and blurred, and its one setting (the ridge) is
chosen by cross-validation there; the 100 held-out ones are only measured.

    python make_data.py          # make demo-data
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from make_base import BASE, WORK
from pictures import NOTO, TWEMOJI, Emoji, Package, datasource_picture, emoji_catalogue, fetch
from PIL import Image, ImageFilter
from rich.console import Console
from vae import to_model

from patina.demo.judge import Floats, Pixels, StyleJudge, fit, style_features

DATASETS = BASE.parents[1] / "datasets"
TRAINING_PICTURES, HELD_OUT_PICTURES = 200, 100
RIDGES = (30.0, 100.0, 300.0)
INDISTINCT_SUBCATEGORIES = {"country-flag", "subdivision-flag", "flag", "family"}
INDISTINCT_WORDS = {"man", "men", "woman", "women"}
FOLDS = 4
SEED = 0


@dataclass(frozen=True)
class Variant:
    """How a real picture is changed before the judge is fitted on it."""

    shares: tuple[float, ...] = (1.0,)
    """Of the round trip's error, a picture each: 0 would be the picture itself."""
    noise: float = 0.0
    """Deviation of noise in the scaled latents."""
    blur_px: float = 0.0
    """Radius of a blur before the round trip."""


VARIANTS = (Variant(shares=(0.25, 0.5, 1.0)), Variant(noise=0.5), Variant(noise=0.7), Variant(blur_px=3.0))
"""What a sampler leaves is less exact than a round trip, and a real picture more so; neither says anything about style.

Fitted on clean round trips alone, a judge called 78 % of real Twemoji with noise of 0.3 Twemoji (96 % without) and 60 %
of strongly blurred Noto. Without a share of the error real pictures look flatter to it than any that it knows: of
real Noto 0.90 were right, with it 0.93 (docs/log.md, 2026-11-27).
"""


def main() -> None:
    downloads = WORK / "downloads"
    catalogue = emoji_catalogue(downloads)
    told_apart = [e for e in catalogue.values() if _told_apart(e)]
    chosen = random.Random(SEED).sample(told_apart, TRAINING_PICTURES + HELD_OUT_PICTURES)
    training, held_out = chosen[:TRAINING_PICTURES], chosen[TRAINING_PICTURES:]
    write_imagefolder(DATASETS / "twemoji-style", training, TWEMOJI, downloads)
    judge_folder = DATASETS / "emoji-judge"
    for package in (TWEMOJI, NOTO):
        write_imagefolder(judge_folder / package.style, held_out, package, downloads)
    outside = [e for e in catalogue.values() if e not in set(chosen)]
    fit_judge(outside, downloads).save(judge_folder / "judge.json")
    report(StyleJudge.load(judge_folder / "judge.json"), held_out, downloads)


def write_imagefolder(folder: Path, emoji: list[Emoji], package: Package, downloads: Path) -> None:
    """PNG files and ``metadata.jsonl``, as Hugging Face's imagefolder reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for its in emoji:
        name = f"{its.unified.lower()}.png"
        Image.fromarray(datasource_picture(package, its.unified, downloads)).save(folder / name, optimize=True)
        lines.append(json.dumps({"file_name": name, "text": its.caption(package.style)}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def fit_judge(outside: list[Emoji], downloads: Path) -> StyleJudge:
    """Fit on round trips of the real pictures outside the 300, the ridge by cross-validation over emoji."""
    fetch(TWEMOJI, downloads)
    vae = AutoencoderKL.from_pretrained(BASE / "vae", torch_dtype=torch.float32)
    pixels = [real(outside, package, downloads) for package in (NOTO, TWEMOJI)]
    noto, twemoji = (
        np.concatenate(
            [style_features(changed) for variant in VARIANTS for changed in round_trips(vae, style, variant)]
        )
        for style in pixels
    )
    fold = np.resize(np.arange(len(outside)) % FOLDS, len(noto))
    scores = {ridge: _cross_validated(noto, twemoji, fold, ridge) for ridge in RIDGES}
    Console().print("cross-validated accuracy by ridge:", {r: round(s, 4) for r, s in scores.items()})
    return _fit_pair(noto, twemoji, max(scores, key=lambda ridge: scores[ridge]))


def report(judge: StyleJudge, held_out: list[Emoji], downloads: Path) -> None:
    noto, twemoji = real(held_out, NOTO, downloads), real(held_out, TWEMOJI, downloads)
    right = [float((~judge.calls_twemoji(noto)).mean()), float(judge.calls_twemoji(twemoji).mean())]
    Console().print(f"on the real held-out pictures: Noto {right[0]:.2f}, Twemoji {right[1]:.2f}")


def real(emoji: list[Emoji], package: Package, downloads: Path) -> Pixels:
    return np.stack([datasource_picture(package, its.unified, downloads) for its in emoji])


@torch.inference_mode()
def round_trips(vae: AutoencoderKL, pixels: Pixels, variant: Variant) -> list[Pixels]:
    """What the VAE makes of uint8 [N, 64, 64, 3], changed as ``variant`` says: as many for each of its shares."""
    given = pixels
    if variant.blur_px:
        blur = ImageFilter.GaussianBlur(variant.blur_px)
        given = np.stack([np.asarray(Image.fromarray(p).filter(blur)) for p in pixels])
    before = to_model(torch.from_numpy(given))
    generator = torch.Generator().manual_seed(SEED)
    decoded = []
    for batch in before.split(64):
        latents = vae.encode(batch).latent_dist.mean
        noisy = latents + torch.randn(latents.shape, generator=generator) * variant.noise / vae.config.scaling_factor
        decoded.append(vae.decode(noisy).sample.clamp(-1, 1))
    error = torch.cat(decoded) - before
    units = [(before + share * error).add(1).mul(127.5).round() for share in variant.shares]
    return [unit.permute(0, 2, 3, 1).numpy().astype(np.uint8) for unit in units]


def _told_apart(emoji: Emoji) -> bool:
    words = set(emoji.name.replace(":", " ").replace(",", " ").split())
    return emoji.subcategory not in INDISTINCT_SUBCATEGORIES and not words & INDISTINCT_WORDS


def _cross_validated(noto: Floats, twemoji: Floats, fold: np.ndarray, ridge: float) -> float:
    right = []
    for left_out in range(FOLDS):
        judge = _fit_pair(noto[fold != left_out], twemoji[fold != left_out], ridge)
        right.append((~judge.calls_features_twemoji(noto[fold == left_out])).mean())
        right.append(judge.calls_features_twemoji(twemoji[fold == left_out]).mean())
    return float(np.mean(right))


def _fit_pair(noto: Floats, twemoji: Floats, ridge: float) -> StyleJudge:
    labels = np.repeat([False, True], [len(noto), len(twemoji)])
    return fit(np.concatenate([noto, twemoji]), labels, ridge)


if __name__ == "__main__":
    main()
