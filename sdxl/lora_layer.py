"""One frozen layer with low-rank updates beside it (Hu et al. 2021, arXiv:2106.09685): y = W x + b + s B A x.

The layer is a Linear or a Conv2d; of a convolution, A is one of the same shape and B a 1 x 1 (LoCon). An update with a
magnitude rescales the whole (sdxl/dora.py). Knows nothing about names, files or which layers of a network are adapted;
sdxl/lora.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from sdxl import lora_conv, lora_linear
from sdxl.dora import DoraLinear, Magnitude, row_norms, squared_row_norms
from sdxl.quantized import QuantizedLinear

Selection = Sequence[Mapping[str, float]]
"""For each sample of a batch, which adapters act on it and how strongly."""

TRAINING = "default"
"""Name of the adapter in training."""


class Update(NamedTuple):
    """A trained adapter's part in one layer, in the base's dtype: [R, in(, kh, kw)], and [out, R] with its scale."""

    down: torch.Tensor
    up: torch.Tensor
    magnitude: Magnitude | None
    """[out] of a DoRA."""


class Stack(NamedTuple):
    """Updates side by side, of all samples alike or, with a first dimension N, of each."""

    down: torch.Tensor
    """[(N,) R, in(, kh, kw)]"""
    up: torch.Tensor
    """[(N,) out, R]"""
    gain: torch.Tensor | None
    """[(N,) out]: what is added of the base's own output (without bias); None when no update has a magnitude."""


class LoraLayer(nn.Module):
    """A frozen Linear or Conv2d, at most one adapter in training, and any number held for serving.

    What it does is chosen by one of ``use_base``, ``use_training``, ``use_same`` and ``use_mixed``.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.magnitude: nn.Parameter | None = None
        self.alpha = 1.0
        self.dropout = 0.0
        self.dropout_keys: tuple[int, ...] | None = None
        self.held: dict[str, Update] = {}
        self._squared: torch.Tensor | None = None
        self._trains = False
        self._strength = 1.0
        self._stack: Stack | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight: (out, in) or (out, in, kh, kw)."""
        if isinstance(self.base, nn.Conv2d):
            return self.base.out_channels, self.base.in_channels, *self.base.kernel_size
        return self.base.out_features, self.base.in_features

    @property
    def scaling(self) -> float:
        """What B A is multiplied by, of the adapter in training."""
        assert self.lora_A is not None
        return self.alpha / len(self.lora_A)

    def add_training(
        self, rank: int, alpha: float, generator: torch.Generator, *, dropout: float = 0.0, dora: bool = False
    ) -> None:
        """A trainable update in fp32 that starts as peft's does: A as the layer's kind, B zero, the magnitude ‖W‖."""
        features_out, *inputs = self.shape
        device = self.base.weight.device
        down = torch.empty(rank, *inputs, dtype=torch.float32)
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
        up = torch.zeros(features_out, rank, *(1 for _ in inputs[1:]), dtype=torch.float32, device=device)
        self.lora_A, self.lora_B = nn.Parameter(down.to(device)), nn.Parameter(up)
        self.alpha, self.dropout = alpha, dropout
        if dora:
            self._squared = squared_row_norms(self.base.weight)
            # peft's shape of a convolution's magnitude has all four dimensions.
            across = (1, -1, 1, 1) if inputs[1:] else (-1,)
            self.magnitude = nn.Parameter(self._squared.sqrt().view(across))

    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter in training by the endings of PEFT's keys."""
        found = {
            "lora_A.weight": self.lora_A,
            "lora_B.weight": self.lora_B,
            "lora_magnitude_vector": self.magnitude,
        }
        return {name: parameter for name, parameter in found.items() if parameter is not None}

    def use_base(self) -> None:
        self._trains, self._stack = False, None

    def use_training(self, strength: float = 1.0) -> None:
        self._trains, self._strength, self._stack = True, strength, None

    def use_same(self, choice: Mapping[str, float]) -> None:
        """The same adapters on every sample, whatever the batch's size."""
        self._trains = False
        parts = self._parts(choice)
        self._stack = None
        if parts:
            gains = [part.gain for part in parts if part.gain is not None]
            self._stack = Stack(
                torch.cat([part.down for part in parts]),
                torch.cat([part.up for part in parts], dim=1),
                torch.stack(gains).sum(0) if gains else None,
            )

    def use_mixed(self, choices: Selection) -> None:
        """Each sample its own adapters, zero where a sample has less rank than another."""
        self._trains, self._stack = False, None
        samples = [self._parts(choice) for choice in choices]
        rank = max(sum(len(part.down) for part in parts) for parts in samples)
        if rank == 0:
            return
        features_out, *inputs = self.shape
        some = next(part for parts in samples for part in parts)
        down = some.down.new_zeros(len(samples), rank, *inputs)
        up = some.up.new_zeros(len(samples), features_out, rank)
        gain = some.up.new_zeros(len(samples), features_out)
        for sample, parts in enumerate(samples):
            start = 0
            for part in parts:
                end = start + len(part.down)
                down[sample, start:end], up[sample, :, start:end] = part.down, part.up
                if part.gain is not None:
                    gain[sample] += part.gain
                start = end
        rescaled = any(part.gain is not None for parts in samples for part in parts)
        self._stack = Stack(down, up, gain if rescaled else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._trains:
            return self._forward_training(x)
        if self._stack is None:
            return _tensor(self.base(x))
        if self._stack.down.ndim == len(self.shape):
            return self._forward_same(x, *self._stack)
        return self._forward_mixed(x, *self._stack)

    def _forward_training(self, x: torch.Tensor) -> torch.Tensor:
        assert self.lora_A is not None
        assert self.lora_B is not None
        down, up = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        dropping = self.dropout and self.dropout_keys is not None
        seen = x * _dropout_mask(x, self.dropout, self.dropout_keys or ()) if dropping else x
        scale = self.scaling
        if self.magnitude is None:
            scale *= self._strength
            if _is_plain_linear(self.base) and not dropping:
                return _tensor(lora_linear.Adapted.apply(x, self.base, down, up, scale))
            return self.base(x) + self._low_rank(seen, down, up) * scale
        norms = row_norms(self.base.weight, self.lora_A, self.lora_B, scale, self._squared)
        # The difference to 1 is what is rounded, here as in serving: of the factor itself bf16 would keep two digits.
        gain = (self.magnitude.flatten() / norms - 1).to(x.dtype)
        if _is_plain_linear(self.base) and not dropping and self._strength == 1:
            return _tensor(DoraLinear.apply(x, self.base, down, up, gain, scale))
        out = self.base(x)
        rescaled = self._without_bias(self.base(seen) if dropping else out)
        update = self._low_rank(seen, down, up) * scale
        return out + (gain.view(_across(self.base)) * (rescaled + update) + update) * self._strength

    def _forward_same(
        self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, gain: torch.Tensor | None
    ) -> torch.Tensor:
        if gain is None and _is_plain_linear(self.base):
            return _tensor(lora_linear.Adapted.apply(x, self.base, down, up, 1.0))
        out: torch.Tensor = self.base(x)
        update = self._low_rank(x, down, up)
        if gain is not None:
            update = update + gain.view(_across(self.base)) * self._without_bias(out)
        return out + update

    def _forward_mixed(
        self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Add each sample's own update; a batch doubled for guidance holds the samples in the same order twice."""
        samples = len(down)
        if len(x) % samples:
            raise ValueError(f"a batch of {len(x)} cannot be shared by the {samples} samples selected")
        out: torch.Tensor = self.base(x)
        if gain is not None:
            gain = gain.view(samples, *[1] * (x.ndim - 1 - len(_across(self.base))), *_across(self.base))
            out = out + gain.repeat(len(x) // samples, *[1] * (x.ndim - 1)) * self._without_bias(out)
        for start in range(0, len(x), samples):
            piece, part = x[start : start + samples], out[start : start + samples]
            if isinstance(self.base, nn.Conv2d):
                part += lora_conv.each_its_own(piece, down, up, self.base)
            else:
                lora_linear.add_each_its_own(piece, part, down, up)
        return out

    def _low_rank(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        if isinstance(self.base, nn.Conv2d):
            return lora_conv.low_rank(x, down, up, self.base)
        return F.linear(F.linear(x, down), up)

    def _without_bias(self, out: torch.Tensor) -> torch.Tensor:
        return out if self.base.bias is None else out - self.base.bias.view(_across(self.base))

    def _parts(self, choice: Mapping[str, float]) -> list[Stack]:
        """(A, strength x B, strength x gain) of the chosen adapters that have weights for this layer."""
        parts = []
        for name, strength in choice.items():
            update = self._as_held() if name == TRAINING else self.held.get(name)
            if update is None:
                continue
            if update.magnitude is None:
                parts.append(Stack(update.down, update.up * strength, None))
            else:
                # The difference to the base is what a strength scales, so that none of it is the base.
                grown = update.magnitude.over(self.base.weight, update.down, update.up)
                up = (update.up.float() * (grown * strength)[:, None]).to(update.up.dtype)
                parts.append(Stack(update.down, up, ((grown - 1) * strength).to(update.up.dtype)))
        return parts

    def _as_held(self) -> Update | None:
        if self.lora_A is None or self.lora_B is None:
            return None
        return self.prepare(
            self.lora_A.detach(),
            self.lora_B.detach(),
            None if self.magnitude is None else self.magnitude.detach(),
            self.alpha,
        )

    def prepare(
        self, down: torch.Tensor, up: torch.Tensor, magnitude: torch.Tensor | None, alpha: float | None
    ) -> Update:
        """An adapter's tensors as this layer holds them.

        Args:
            alpha: the update is scaled by alpha / rank; None is the rank.

        Raises:
            ValueError: they do not fit.
        """
        features_out, *inputs = self.shape
        rank = len(down)
        fits = down.shape[1:] == torch.Size(inputs) and up.numel() == features_out * rank and len(up) == features_out
        if not (fits and (magnitude is None or magnitude.numel() == features_out)):
            raise ValueError(f"{tuple(up.shape)} x {tuple(down.shape)} does not fit {self.shape}")
        weight = self.base.weight
        scaled = up.flatten(1).float() * ((alpha or rank) / rank)
        held = None
        if magnitude is not None:
            held = Magnitude(magnitude.flatten().float().to(weight.device))
        return Update(down.to(weight), scaled.to(weight), held)


def _tensor(result: Any) -> torch.Tensor:
    assert isinstance(result, torch.Tensor)
    return result


def _is_plain_linear(base: nn.Module) -> bool:
    """W x + b with W as the layer gives it; not a subclass that computes in its own way."""
    return type(base) in (nn.Linear, QuantizedLinear)


def _across(base: nn.Module) -> tuple[int, ...]:
    """The shape in which one number for each output feature broadcasts over the outputs."""
    return (-1, 1, 1) if isinstance(base, nn.Conv2d) else (-1,)


def _dropout_mask(x: torch.Tensor, share: float, keys: Sequence[int]) -> torch.Tensor:
    """Inverted dropout from a key a sample: the same mask when a layer is recomputed, or in another batch.

    A sample may be several rows that follow each other: a long caption read in chunks.
    """
    if len(x) % len(keys):
        raise ValueError(f"{len(keys)} dropout keys for a batch of {len(x)}")
    mask = torch.empty_like(x)
    if x.device.type == "meta":
        return mask  # a shape without numbers, and no generator draws any
    for rows, key in zip(mask.chunk(len(keys)), keys, strict=True):
        rows.bernoulli_(1 - share, generator=torch.Generator(device=x.device).manual_seed(key))
    return mask.div_(1 - share)
