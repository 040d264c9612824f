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
from sdxl.conditioning import Conditioning, encode_prompts, unconditional
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

    def in_step(self, captions: Sequence[str | None], dropout_keys: Sequence[int]) -> list[Conditioning]:
        """For a step: each caption with gradients, and dropout that follows from its key alone.

        All of a forward pass together, so that autocast makes one copy of the weights for all of them.
        """
        with self._compute():
            return [self._in_step(caption, key) for caption, key in zip(captions, dropout_keys, strict=True)]

    def _in_step(self, caption: str | None, dropout_key: int) -> Conditioning:
        if self._bank is None:
            return self._whole(caption)
        if not self._dropout:
            return self._encoded(caption)
        self._bank.dropout_keys([dropout_key], TEXT_ENCODERS)
        try:
            return self._encoded(caption)
        finally:
            self._bank.dropout_keys(None, TEXT_ENCODERS)

    def _whole(self, caption: str | None) -> Conditioning:
        """With a gradient for every weight, be it zero: one that is updated when its gradient comes must not wait."""
        if caption is not None or not self._base.force_zeros_for_empty_prompt:
            return self._encoded(caption)
        empty = self._encoded("")
        return Conditioning(*(torch.zeros_like(one) + 0 * one for one in (empty.text, empty.pooled)))

    def _encoded(self, caption: str | None) -> Conditioning:
        if caption is None:
            return unconditional(self._base)
        return encode_prompts(self._base, [caption], max_tokens=self._max_tokens)
