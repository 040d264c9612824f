"""The later stages of the demo base: more styles, and a style that only the 77 tokens tell.

Pooled text reaches every resnet through the time embedding. While the style can be read there, adapters on attention
and feed-forward cannot change it (docs/log.md, 2026-11-23); so here it is the pooled text of the caption with a style
word drawn at random, and half of the time none at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from colourings import WORDS
from diffusers import UNet2DConditionModel
from loop import train
from palettes import FIRST_MADE_UP, REAL, SECOND_MADE_UP
from pictures import Pictures
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from unet import (
    CAPTION_DROPOUT,
    cut_embeddings,
    denoising_loss,
    draw_kept,
    draw_rows,
    encode,
    plain_attention,
    rows_by_style,
    style_words,
    token_ids,
    with_full_embeddings,
)

POOLED_DROPOUT = 0.5


@dataclass(frozen=True)
class Lesson:
    """One stage: how often each style is drawn, for how many steps, and how they move the weights."""

    style_weights: dict[str, float]
    steps: int
    decay_steps: int
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 100
    ema_decay: float = 0.998
    matrices_by_muon: bool = True
    plain_share: float = 0.9
    """Of Noto's captions; the others have no style word or one that means nothing, so that Noto stays the default.

    In the stage before the first of these, four in ten were so, which teaches that style words need not be heard.
    """
    strangers: bool = False
    """Whether half of the words that mean nothing are made up of syllables, as a new style's word will be."""

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, and over the last ``decay_steps`` linearly to zero."""
        left = (self.steps - step) / self.decay_steps
        return self.peak_learning_rate * min((step + 1) / self.warmup_steps, 1.0, left)


def _alike(share: float, styles: Sequence[str]) -> dict[str, float]:
    """Together drawn in ``share`` of the cases, each as often as the others."""
    return dict.fromkeys(styles, share / len(styles))


SIX_STYLES = Lesson(
    style_weights={"noto": 0.4, "flat": 0.14, "fluent": 0.12, "blob": 0.12, "one": 0.14, "fox": 0.08},
    steps=500,
    decay_steps=250,
    peak_learning_rate=5e-4,
    warmup_steps=50,
    ema_decay=0.99,
    matrices_by_muon=False,
)
MADE_UP_STYLES = Lesson(
    style_weights={"noto": 0.24, "flat": 0.09, "fluent": 0.07, "blob": 0.07, "one": 0.08, "fox": 0.05}
    | _alike(0.4, FIRST_MADE_UP.words),
    steps=3200,
    decay_steps=1600,
)
TWICE_MADE_UP_STYLES = Lesson(
    style_weights={"noto": 0.2, "flat": 0.08, "fluent": 0.06, "blob": 0.06, "one": 0.08, "fox": 0.06}
    | _alike(0.46, FIRST_MADE_UP.words + SECOND_MADE_UP.words),
    steps=1750,
    decay_steps=500,
)
"""More styles than can be known by heart: forty-two versions of each picture in a network of 11 M numbers."""
COLOUR_WORDS = Lesson(
    style_weights={"noto": 0.26, "flat": 0.06, "fluent": 0.04, "blob": 0.04, "one": 0.07, "fox": 0.04}
    | _alike(0.49, [f"{word} {style}" for word in WORDS for style in REAL]),
    steps=2400,
    decay_steps=800,
    plain_share=0.75,
    strangers=True,
)


def teach_styles(
    lesson: Lesson,
    base: Path,
    latents: torch.Tensor,
    pictures: Pictures,
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    folder: Path,
    *,
    seed: int,
) -> dict[str, nn.Module]:
    """Go on from the modules in ``base`` on scaled ``latents`` [N, 4, 8, 8]; return the averaged modules."""
    modules = {
        "unet": UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32),
        "text_encoder": CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32),
        "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(
            base / "text_encoder_2", torch_dtype=torch.float32
        ),
    }
    cut_embeddings(modules, pictures, tokenizers)
    rows_of = rows_by_style(pictures, lesson.style_weights)
    words = style_words(pictures)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        draw = random.Random(generator.initial_seed())
        rows = draw_rows(rows_of, lesson.style_weights, draw)
        captions = [_caption(pictures, row, lesson, words, draw) for row in rows]
        any_style = [*lesson.style_weights, draw.choice(words)]
        pooled_captions = [pictures.emoji[row].caption(draw.choice(any_style)) for row in rows]
        kept = draw_kept(CAPTION_DROPOUT, draw)
        pooled_kept = kept * draw_kept(POOLED_DROPOUT, draw)
        with plain_attention():
            text, _ = encode(captions, tokenizers, modules["text_encoder"], modules["text_encoder_2"])
            pooled = modules["text_encoder_2"](token_ids(pooled_captions, tokenizers[1])).text_embeds
            conditioning = text * kept[:, None, None], pooled * pooled_kept[:, None]
            return denoising_loss(modules["unet"], latents[rows], *conditioning, generator)

    train(
        modules,
        loss_of,
        lesson.learning_rate,
        lesson.steps,
        folder,
        seed=seed,
        weight_decay=0.01,
        ema_decay=lesson.ema_decay,
        matrices_by_muon=lesson.matrices_by_muon,
    )
    return with_full_embeddings(modules)


def _caption(pictures: Pictures, row: int, lesson: Lesson, words: list[str], draw: random.Random) -> str:
    emoji, style = pictures.emoji[row], pictures.styles[row]
    if style != "noto" or draw.random() < lesson.plain_share:
        return emoji.caption(style)
    if draw.random() < 0.5:
        return f"{emoji.name}, {emoji.subcategory}"
    return emoji.caption(_stranger(draw) if lesson.strangers and draw.random() < 0.5 else draw.choice(words))


def _stranger(draw: random.Random) -> str:
    return "".join(draw.choice("bdfgjklmnprstvwz") + draw.choice("aeiou") for _ in range(draw.randint(2, 4)))
