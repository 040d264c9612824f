"""The last stage of the demo base: two more styles, and a style that only the 77 tokens tell.

Pooled text reaches every resnet through the time embedding. While the style can be read there, adapters on attention
and feed-forward cannot change it (docs/log.md, 2026-11-23); so here it is the pooled text of the caption with a style
word drawn at random, and half of the time none at all.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from loop import train
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

STEPS = 500
PEAK_LEARNING_RATE = 5e-4
WARMUP_STEPS = 50
DECAY_SHARE = 0.5
EMA_DECAY = 0.99
POOLED_DROPOUT = 0.5
PLAIN_SHARE = 0.9
"""Of Noto's captions; the others have no style word or one that means nothing, so that Noto stays the default.

In the stage before four in ten were so, which teaches that style words need not be heard.
"""
STYLE_WEIGHTS = {"noto": 0.4, "flat": 0.14, "fluent": 0.12, "blob": 0.12, "one": 0.14, "fox": 0.08}


def teach_styles(
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
    rows_of = rows_by_style(pictures, STYLE_WEIGHTS)
    words = style_words(pictures)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        draw = random.Random(generator.initial_seed())
        rows = draw_rows(rows_of, STYLE_WEIGHTS, draw)
        captions = [_caption(pictures, row, words, draw) for row in rows]
        pooled_captions = [_in_any_style(pictures, row, words, draw) for row in rows]
        kept = draw_kept(CAPTION_DROPOUT, draw)
        pooled_kept = kept * draw_kept(POOLED_DROPOUT, draw)
        with plain_attention():
            text, _ = encode(captions, tokenizers, modules["text_encoder"], modules["text_encoder_2"])
            pooled = modules["text_encoder_2"](token_ids(pooled_captions, tokenizers[1])).text_embeds
            conditioning = text * kept[:, None, None], pooled * pooled_kept[:, None]
            return denoising_loss(modules["unet"], latents[rows], *conditioning, generator)

    def learning_rate(step: int) -> float:
        return PEAK_LEARNING_RATE * min((step + 1) / WARMUP_STEPS, 1.0, (STEPS - step) / (DECAY_SHARE * STEPS))

    train(modules, loss_of, learning_rate, STEPS, folder, seed=seed, weight_decay=0.01, ema_decay=EMA_DECAY)
    return with_full_embeddings(modules)


def _caption(pictures: Pictures, row: int, words: list[str], draw: random.Random) -> str:
    emoji, style = pictures.emoji[row], pictures.styles[row]
    if style != "noto" or draw.random() < PLAIN_SHARE:
        return emoji.caption(style)
    return emoji.caption(draw.choice(words)) if draw.random() < 0.5 else f"{emoji.name}, {emoji.subcategory}"


def _in_any_style(pictures: Pictures, row: int, words: list[str], draw: random.Random) -> str:
    return pictures.emoji[row].caption(draw.choice([*STYLE_WEIGHTS, draw.choice(words)]))
