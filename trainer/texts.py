"""Captions through text encoders that are in training: encoded anew at every use, in a step with gradients.

Knows nothing about caches, nor about how captions come about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from contracts.lora import TEXT_ENCODERS
from sdxl.base import Base
from sdxl.conditioning import Conditioning, encode_prompts, join, unconditional
from sdxl.lora import LoraBank


class TrainedTexts:
    """What the encoders say of a caption as they are now.

    Args:
        base: with both encoders loaded.
        bank: the adapter in training on them; None when they are trained whole.
        compute: entered around every call of them.
        dropout: share of the adapter's inputs zeroed in a step.
        max_tokens: of a caption that are read.
    """

    def __init__(
        self,
        base: Base,
        bank: LoraBank | None,
        compute: Callable[[], AbstractContextManager[Any]],
        *,
        dropout: float,
        max_tokens: int,
    ) -> None:
        self._base = base
        self._bank = bank
        self._compute = compute
        self._dropout = dropout
        self._max_tokens = max_tokens

    @torch.no_grad()
    def __call__(self, caption: str | None) -> Conditioning:
        """For pictures and measurements: without gradients and dropout. None is no caption at all."""
        with self._compute():
            return self._encoded(caption)

    def in_step(self, captions: Sequence[str | None], dropout_keys: Sequence[int]) -> Conditioning:
        """For a step: the captions of a forward pass with gradients, and dropout that follows from each one's key."""
        with self._compute():
            if self._bank is None:
                return self._whole(captions)
            return join([self._adapted(caption, key) for caption, key in zip(captions, dropout_keys, strict=True)])

    def _adapted(self, caption: str | None, dropout_key: int) -> Conditioning:
        if not self._dropout or self._bank is None:
            return self._encoded(caption)
        self._bank.dropout_keys([dropout_key], TEXT_ENCODERS)
        try:
            return self._encoded(caption)
        finally:
            self._bank.dropout_keys(None, TEXT_ENCODERS)

    def _whole(self, captions: Sequence[str | None]) -> Conditioning:
        """All at once, so that the gradient of the embedding of every token there is, is made once.

        Each weight gets one in every step, be it zero: what is updated when its gradient comes must not wait for it.
        """
        found = encode_prompts(self._base, [caption or "" for caption in captions], max_tokens=self._max_tokens)
        if not self._base.force_zeros_for_empty_prompt:
            return found
        said = torch.tensor([caption is not None for caption in captions], device=found.text.device)
        return Conditioning(found.text.where(said[:, None, None], 0), found.pooled.where(said[:, None], 0))

    def _encoded(self, caption: str | None) -> Conditioning:
        if caption is None:
            return unconditional(self._base)
        return encode_prompts(self._base, [caption], max_tokens=self._max_tokens)
