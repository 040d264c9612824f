"""Captions through text encoders that are in training: encoded anew at every use, in a step with gradients.

Knows nothing about caches, nor about how captions come about.
"""

from __future__ import annotations

import torch

from contracts.lora import TEXT_ENCODERS
from sdxl.base import Base
from sdxl.conditioning import Conditioning, encode_prompts, unconditional
from sdxl.lora import LoraBank


class TrainedTexts:
    """What the encoders say of a caption as they are now.

    Args:
        base: with both encoders loaded.
        bank: the adapter in training on them.
        dropout: share of the adapter's inputs zeroed in a step.
        max_tokens: of a caption that are read.
    """

    def __init__(self, base: Base, bank: LoraBank, *, dropout: float, max_tokens: int) -> None:
        self._base = base
        self._bank = bank
        self._dropout = dropout
        self._max_tokens = max_tokens

    @torch.no_grad()
    def __call__(self, caption: str | None) -> Conditioning:
        """For pictures and measurements: without gradients and dropout. None is no caption at all."""
        return self._encoded(caption)

    def in_step(self, caption: str | None, dropout_key: int) -> Conditioning:
        """For a step: with gradients, and dropout that follows from the key alone."""
        if not self._dropout:
            return self._encoded(caption)
        self._bank.dropout_keys([dropout_key], TEXT_ENCODERS)
        try:
            return self._encoded(caption)
        finally:
            self._bank.dropout_keys(None, TEXT_ENCODERS)

    def _encoded(self, caption: str | None) -> Conditioning:
        if caption is None:
            return unconditional(self._base)
        return encode_prompts(self._base, [caption], max_tokens=self._max_tokens)
