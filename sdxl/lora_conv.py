"""The arithmetic of a LoRA on a Conv2d (LoCon): A a convolution like the layer's own to R channels, B a 1 x 1.

Knows nothing about which layer it is.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def low_rank(x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, like: nn.Conv2d) -> torch.Tensor:
    """B A x; down [R, in, kh, kw], up [out, R] or [out, R, 1, 1]."""
    inner = F.conv2d(x, down, None, like.stride, like.padding, like.dilation)
    return F.conv2d(inner, up.reshape(*up.shape[:2], 1, 1))


def each_its_own(x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, like: nn.Conv2d) -> torch.Tensor:
    """Sample n's B_n A_n x_n as one convolution in N groups; down [N, R, in, kh, kw], up [N, out, R]."""
    samples, rank = down.shape[:2]
    wide = x.reshape(1, -1, *x.shape[2:])
    inner = F.conv2d(wide, down.flatten(0, 1), None, like.stride, like.padding, like.dilation, groups=samples)
    height, width = inner.shape[2:]
    out = torch.bmm(up, inner.view(samples, rank, height * width))
    return out.view(samples, -1, height, width)
