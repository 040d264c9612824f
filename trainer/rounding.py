"""fp32 to bf16 by chance: up or down in proportion to how near each is, so that small updates are not lost.

A number is right on average, where rounding to nearest drops every update below half a step of bf16 for good. Gupta
et al. 2015 (arXiv:1502.02551); for training in bf16, Zamirai et al. 2020 (arXiv:2010.06192). Knows nothing about
optimisers.
"""

from __future__ import annotations

import torch

_DROPPED_BITS = 16
"""bf16 is the upper half of fp32."""


def round_to_bf16(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Finite fp32 ``values`` as bf16; the generator, of the same device, alone decides which way each goes."""
    noise = torch.randint(
        1 << _DROPPED_BITS, values.shape, generator=generator, device=values.device, dtype=torch.int32
    )
    # The bits of a float of either sign count away from zero, so the noise carries into the upper half as often as
    # the lower half is large.
    bits = noise.add_(values.view(torch.int32)).bitwise_and_(-1 << _DROPPED_BITS)
    return bits.view(torch.float32).to(torch.bfloat16)
