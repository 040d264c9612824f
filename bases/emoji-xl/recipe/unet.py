"""The UNet and the two text encoders of the demo base, trained jointly on the VAE's latents.

The shape is SDXL's in small: ``text_time`` conditioning, (Down, CrossAttnDown, CrossAttnDown), two
layers a block, linear projections, both encoders' penultimate states side by side, pooled text from the
second. The paper is Podell et al. 2023 (arXiv:2307.01952).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from loop import train
from pictures import Pictures
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BATCH = 64
STEPS = 4400
PEAK_LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
DECAY_SHARE = 0.4
"""The last share of the steps over which the learning rate falls linearly to zero."""

PREDICTION = "v_prediction"
"""Towards the noisy end the network then says the picture itself, not a small difference from the noise."""
SNR_CAP = 5.0
CAPTION_DROPOUT = 0.1
STYLE_WEIGHTS = {"noto": 0.5, "flat": 0.2, "fluent": 0.15, "blob": 0.15}
"""How often each style is drawn: Noto most, since the base is judged on it and falls back to it."""

TEXT_WIDTH = 64
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ALPHAS = DDPMScheduler(**SCHEDULE).alphas_cumprod
"""Share of the clean latents' variance at each of the 1000 timesteps."""


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 96, 160),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(2, 3, 5),
        norm_num_groups=16,
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=6 * 16 + TEXT_WIDTH,
        use_linear_projection=True,
    )


def build_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    config = CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def build_modules(seed: int) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    first, second = build_text_encoders()
    return {"unet": build_unet(), "text_encoder": first, "text_encoder_2": second}


class UsedEmbedding(nn.Module):
    """The rows of a token embedding that some caption uses: 49 408 rows shrink to the few thousand that move.

    Updating the full table would cost a sixth of a step; the rows no caption uses keep their initial values.
    """

    def __init__(self, full: nn.Embedding, used: torch.Tensor) -> None:
        super().__init__()
        self.used = used
        self.initial = full.weight.detach().clone()
        self.weight = nn.Parameter(self.initial[used].clone())
        self.row_of = torch.full((len(self.initial),), -1)
        self.row_of[used] = torch.arange(len(used))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.row_of[ids]
        moving = F.embedding(rows.clamp(min=0), self.weight)
        return torch.where((rows >= 0)[..., None], moving, self.initial[ids].to(moving.dtype))

    def restored(self) -> nn.Embedding:
        full = self.initial.clone()
        full[self.used] = self.weight.detach().float()
        return nn.Embedding.from_pretrained(full, freeze=False)


def train_unet(
    latents: torch.Tensor,
    pictures: Pictures,
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    folder: Path,
    *,
    seed: int,
    steps: int = STEPS,
    prediction: str = PREDICTION,
) -> dict[str, nn.Module]:
    """Train on scaled ``latents`` [N, 4, 8, 8], row for row the pictures; return the averaged modules."""
    modules = prepare_modules(pictures, tokenizers, seed)
    rows_of = rows_by_style(pictures, STYLE_WEIGHTS)
    words = style_words(pictures)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        draw = random.Random(generator.initial_seed())
        rows = draw_rows(rows_of, STYLE_WEIGHTS, draw)
        captions = [varied_caption(pictures, row, words, draw) for row in rows]
        kept = draw_kept(CAPTION_DROPOUT, draw)
        with plain_attention():
            text, pooled = encode(captions, tokenizers, modules["text_encoder"], modules["text_encoder_2"])
            conditioning = text * kept[:, None, None], pooled * kept[:, None]
            return denoising_loss(modules["unet"], latents[rows], *conditioning, generator, prediction)

    def learning_rate(step: int) -> float:
        return PEAK_LEARNING_RATE * min((step + 1) / WARMUP_STEPS, (steps - step) / (DECAY_SHARE * steps), 1.0)

    train(modules, loss_of, learning_rate, steps, folder, seed=seed, weight_decay=0.01)
    return with_full_embeddings(modules)


def rows_by_style(pictures: Pictures, styles: Iterable[str]) -> dict[str, list[int]]:
    return {s: [i for i, its in enumerate(pictures.styles) if its == s] for s in styles}


def draw_rows(rows_of: dict[str, list[int]], weights: dict[str, float], draw: random.Random) -> list[int]:
    """A batch's rows: each of a style drawn by weight."""
    styles = draw.choices(list(weights), list(weights.values()), k=BATCH)
    return [draw.choice(rows_of[style]) for style in styles]


def draw_kept(dropout: float, draw: random.Random) -> torch.Tensor:
    """[BATCH], one where the conditioning stays and zero where it is dropped.

    SDXL's unconditional input is zeros (force_zeros_for_empty_prompt), not an empty caption.
    """
    return torch.tensor([draw.random() >= dropout for _ in range(BATCH)]).bfloat16()


def plain_attention() -> AbstractContextManager[None]:
    """Plain matrix products: the fused attention kernel's backward is slower at 4 to 77 tokens on a CPU."""
    return sdpa_kernel(SDPBackend.MATH)


def denoising_loss(
    unet: nn.Module,
    clean: torch.Tensor,
    text: torch.Tensor,
    pooled: torch.Tensor,
    generator: torch.Generator,
    prediction: str = PREDICTION,
) -> torch.Tensor:
    """The weighted loss of one batch of scaled latents [BATCH, 4, 8, 8], noise and timesteps drawn here."""
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = torch.randint(1000, (BATCH,), generator=generator)
    alpha = ALPHAS[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    target = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    time_ids = torch.tensor([64, 64, 0, 0, 64, 64], dtype=torch.bfloat16).repeat(BATCH, 1)
    added = {"text_embeds": pooled, "time_ids": time_ids}
    predicted = unet(noisy.bfloat16(), timesteps, text, added_cond_kwargs=added).sample
    error = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=(1, 2, 3))
    snr = ALPHAS[timesteps] / (1 - ALPHAS[timesteps])
    return (error * loss_weight(snr, prediction)).mean()


def prepare_modules(
    pictures: Pictures, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], seed: int
) -> dict[str, nn.Module]:
    """The three networks with embeddings cut to the tokens that captions use."""
    modules = build_modules(seed)
    cut_embeddings(modules, pictures, tokenizers)
    return modules


def cut_embeddings(
    modules: dict[str, nn.Module], pictures: Pictures, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
) -> None:
    """Let both text encoders train the tokens that captions use, and hold the others as they are."""
    captions = [*pictures.captions(), *(f"{word} style" for word in style_words(pictures)), "!"]
    ids = {token for ids in tokenizers[0](captions).input_ids for token in ids}
    used = torch.tensor(sorted(ids | {tokenizers[0].pad_token_id, tokenizers[1].pad_token_id}))
    for name in ("text_encoder", "text_encoder_2"):
        embeddings = text_embeddings(modules[name])
        embeddings.token_embedding = UsedEmbedding(embeddings.token_embedding, used)


def with_full_embeddings(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    for name in ("text_encoder", "text_encoder_2"):
        embeddings = text_embeddings(modules[name])
        embeddings.token_embedding = embeddings.token_embedding.restored()
    return modules


def text_embeddings(encoder: nn.Module) -> nn.Module:
    return encoder.get_submodule(next(n for n, _ in encoder.named_modules() if n.endswith("embeddings")))


def style_words(pictures: Pictures) -> list[str]:
    """Words that name no style, to stand in a style word's place; seven that do are among them all the same."""
    return sorted({word for emoji in pictures.emoji for word in emoji.name.split() if word.isalpha()})


def loss_weight(snr: torch.Tensor, prediction: str) -> torch.Tensor:
    """Min-SNR weighting (Hang et al. 2023, arXiv:2303.09556) with one added to the SNR, [N] -> [N].

    The added one keeps the noisiest steps, where the caption alone decides the picture, from counting
    for nothing: in terms of the clean latent's error the weight is min(SNR + 1, cap).
    """
    capped = (snr + 1).clamp(max=SNR_CAP)
    return capped / (snr + 1) if prediction == "v_prediction" else (capped / snr).clamp(max=SNR_CAP)


def varied_caption(pictures: Pictures, row: int, words: list[str], draw: random.Random) -> str:
    """The picture's caption; Noto's also without a style word or with one that means nothing.

    So a style the base was never told of comes out as Noto, its default, and not as a mixture.
    """
    emoji, style = pictures.emoji[row], pictures.styles[row]
    chance = draw.random()
    if style != "noto" or chance < 0.6:
        return emoji.caption(style)
    return emoji.caption(draw.choice(words)) if chance < 0.8 else f"{emoji.name}, {emoji.subcategory}"


def encode(
    captions: list[str],
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    first: nn.Module,
    second: nn.Module,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions -> text [N, 77, 128] and pooled [N, 64], as SDXL encodes them."""
    one = first(token_ids(captions, tokenizers[0]), output_hidden_states=True)
    two = second(token_ids(captions, tokenizers[1]), output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds


def token_ids(captions: list[str], tokenizer: CLIPTokenizer) -> torch.Tensor:
    """[N, 77], padded as SDXL pads."""
    ids: torch.Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids
