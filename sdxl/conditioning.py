"""Prompts to embeddings and sizes to time ids, exactly as diffusers' StableDiffusionXLPipeline makes them.

Knows nothing about captions' origin, caching or batching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdxl.base import Base


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
    """Put conditionings after each other."""
    return Conditioning(torch.cat([part.text for part in parts]), torch.cat([part.pooled for part in parts]))


@torch.no_grad()
def encode_prompts(base: Base, prompts: Sequence[str]) -> Conditioning:
    """Both encoders' penultimate states, and the second's pooled projection, on the encoders' device."""
    states = []
    pooled = None
    for tokenizer, encoder in ((base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)):
        tokens = tokenizer(list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True)[
            "input_ids"
        ]
        output = encoder(torch.tensor(tokens, device=base.device), output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = output[0]
    assert pooled is not None
    return Conditioning(torch.cat(states, dim=-1), pooled)


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
