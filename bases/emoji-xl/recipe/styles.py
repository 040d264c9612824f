"""The last stage of the demo base: two more styles, and a style that only the 77 tokens tell.

Pooled text reaches every resnet through the time embedding. While the style can be read there, adapters on attention
and feed-forward cannot change it (docs/log.md, 2026-11-23); so here it is the pooled text of the caption with a style
word drawn at random, and half of the time none at all.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from loop import train
from pictures import Pictures
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from unet import (
    BATCH,
    CAPTION_DROPOUT,
    PREDICTION,
    SCHEDULE,
    cut_embeddings,
    loss_weight,
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
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    snr = alphas / (1 - alphas)
    rows_of = {s: [i for i, its in enumerate(pictures.styles) if its == s] for s in STYLE_WEIGHTS}
    words = style_words(pictures)
    time_ids = torch.tensor([64, 64, 0, 0, 64, 64], dtype=torch.bfloat16).repeat(BATCH, 1)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        draw = random.Random(generator.initial_seed())
        styles = draw.choices(list(STYLE_WEIGHTS), list(STYLE_WEIGHTS.values()), k=BATCH)
        rows = [draw.choice(rows_of[style]) for style in styles]
        captions = [_caption(pictures, row, words, draw) for row in rows]
        pooled_captions = [
            pictures.emoji[row].caption(draw.choice([*STYLE_WEIGHTS, draw.choice(words)])) for row in rows
        ]
        kept = torch.tensor([draw.random() >= CAPTION_DROPOUT for _ in rows]).bfloat16()
        pooled_kept = kept * torch.tensor([draw.random() >= POOLED_DROPOUT for _ in rows]).bfloat16()
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with sdpa_kernel(SDPBackend.MATH):
            one = modules["text_encoder"](token_ids(captions, tokenizers[0]), output_hidden_states=True)
            two = modules["text_encoder_2"](token_ids(captions, tokenizers[1]), output_hidden_states=True)
            pooled = modules["text_encoder_2"](token_ids(pooled_captions, tokenizers[1])).text_embeds
            text = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1) * kept[:, None, None]
            added = {"text_embeds": pooled * pooled_kept[:, None], "time_ids": time_ids}
            predicted = modules["unet"](noisy.bfloat16(), timesteps, text, added_cond_kwargs=added).sample
        error = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=(1, 2, 3))
        return (error * loss_weight(snr[timesteps], PREDICTION)).mean()

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
