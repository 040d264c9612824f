"""Prompts to embeddings and sizes to time ids, exactly as diffusers' StableDiffusionXLPipeline makes them.

Prompts that pipeline would cut off are read in chunks, if the caller wants.

Knows nothing about captions' origin, caching or batching.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdxl.base import Base
from sdxl.stock import CLIPTokenizer
from sdxl.tokens import MAX_TOKENS


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about N prompts: token states of both encoders side by side, and a pooled vector."""

    text: torch.Tensor
    """[N, tokens, C]"""
    pooled: torch.Tensor
    """[N, P]"""

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: int | slice | list[int]) -> Conditioning:
        chosen = [index] if isinstance(index, int) else index
        return Conditioning(self.text[chosen], self.pooled[chosen])

    def to(self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        return Conditioning(self.text.to(device=device, dtype=dtype), self.pooled.to(device=device, dtype=dtype))


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """Put conditionings after each other; of prompts read in different numbers of chunks, all are made equally long.

    A shorter one's tokens are repeated whole: attention over keys that are all there k times is attention over them
    once, so a prompt's result does not depend (beyond rounding) on what it stands beside.
    """
    tokens = math.lcm(*(part.text.shape[1] for part in parts))
    texts = [part.text if part.text.shape[1] == tokens else _repeated(part.text, tokens) for part in parts]
    return Conditioning(torch.cat(texts), torch.cat([part.pooled for part in parts]))


def encode_prompts(base: Base, prompts: Sequence[str], *, max_tokens: int = MAX_TOKENS) -> Conditioning:
    """Both encoders' penultimate states, and the second's pooled projection, on the encoders' device.

    Up to 75 tokens as the stock pipeline does it. A longer prompt is read in chunks of 75, each with its own start
    and end, up to ``max_tokens``: the chunks' states lie one after the other, the pooled vector is the first chunk's.
    """
    if max_tokens > MAX_TOKENS:
        return join([_encoded(base, [prompt], max_tokens) for prompt in prompts])
    return _encoded(base, prompts, MAX_TOKENS)


def prompt_chunks(tokenizer: CLIPTokenizer, prompt: str, max_tokens: int) -> list[list[int]]:
    """A prompt's tokens as CLIP takes them: chunks of 75 between start and end, padded to 77; at least one."""
    tokens = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False)["input_ids"][:max_tokens]
    pieces = [tokens[start : start + MAX_TOKENS] for start in range(0, len(tokens), MAX_TOKENS)] or [[]]
    return [
        [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (MAX_TOKENS - len(piece))]
        for piece in pieces
    ]


def _encoded(base: Base, prompts: Sequence[str], max_tokens: int) -> Conditioning:
    """Prompts that have equally many chunks."""
    states = []
    pooled = None
    for tokenizer, encoder in ((base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)):
        chunks = [prompt_chunks(tokenizer, prompt, max_tokens) for prompt in prompts]
        tokens = torch.tensor([chunk for parts in chunks for chunk in parts], device=base.device)
        output = encoder(tokens, output_hidden_states=True)
        penultimate = output.hidden_states[-2]
        states.append(penultimate.reshape(len(prompts), -1, penultimate.shape[-1]))
        pooled = output[0][:: len(chunks[0])]
    assert pooled is not None
    return Conditioning(torch.cat(states, dim=-1), pooled)


def _repeated(text: torch.Tensor, tokens: int) -> torch.Tensor:
    return text.repeat(1, tokens // text.shape[1], 1)


def unconditional(base: Base, count: int = 1) -> Conditioning:
    """What classifier-free guidance steers away from when there is no negative prompt.

    Zeros where the base says so (``force_zeros_for_empty_prompt``), else the encoding of "".
    """
    empty = encode_prompts(base, [""])
    if base.force_zeros_for_empty_prompt:
        empty = Conditioning(torch.zeros_like(empty.text), torch.zeros_like(empty.pooled))
    return Conditioning(empty.text.expand(count, -1, -1), empty.pooled.expand(count, -1))


def time_ids(original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """SDXL's size conditioning [6]: original (height, width), crop (top, left), target (height, width)."""
    return torch.tensor([*original, *crop, *target], dtype=torch.float32)
