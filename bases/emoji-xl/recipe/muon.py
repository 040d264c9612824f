"""Muon, for many small layers at once on a CPU.

Every matrix's momentum is replaced by the nearest orthogonal one, found by Newton-Schulz iterations (Jordan et al.
2024, https://kellerjordan.github.io/posts/muon); convolutions count as matrices of their output channels. Matrices of
one shape go through the iterations together, in bf16; under ``torchrun`` each rank takes its share of the shapes.
`torch.optim.Muon` takes matrices alone, and one after the other.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from ranks import rank, ranks
from torch import distributed

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAMW_RMS = 0.2
"""An AdamW update's usual root mean square, to which updates are scaled: both take one rate (Liu et al. 2025)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay. Weights have two or four dimensions."""

    def __init__(self, weights: list[torch.Tensor], *, weight_decay: float) -> None:
        super().__init__(weights, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            updates = _orthogonalised([self._moved(weight) for weight in group["params"]])
            for weight, update in zip(group["params"], updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(weight), alpha=group["lr"])

    def _moved(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(state["momentum"], MOMENTUM).flatten(1)


def _orthogonalised(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """[rows, columns] each -> the same shapes, every singular value about one times what makes the size AdamW's."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        by_shape[min(matrix.shape), max(matrix.shape)].append(index)
    shapes = sorted(by_shape, key=lambda shape: -len(by_shape[shape]) * shape[0] ** 2 * shape[1])
    found: dict[int, torch.Tensor] = {}
    owner = _owners(shapes, by_shape)
    for shape in shapes:
        wide = torch.stack([m if m.shape[0] <= m.shape[1] else m.T for m in (matrices[i] for i in by_shape[shape])])
        done = _newton_schulz(wide) if owner[shape] == rank() else torch.empty(wide.shape, dtype=torch.bfloat16)
        if ranks() > 1:
            distributed.broadcast(done, owner[shape])
        for index, its in zip(by_shape[shape], done.float(), strict=True):
            found[index] = (its if matrices[index].shape == its.shape else its.T) * ADAMW_RMS * max(shape) ** 0.5
    return [found[index].contiguous() for index in range(len(matrices))]


def _owners(shapes: list[tuple[int, int]], by_shape: dict[tuple[int, int], list[int]]) -> dict[tuple[int, int], int]:
    """Which rank works on which shape: the dearest first, each to whoever has least to do."""
    load = [0] * ranks()
    owner = {}
    for shape in shapes:
        owner[shape] = load.index(min(load))
        load[owner[shape]] += len(by_shape[shape]) * shape[0] ** 2 * shape[1]
    return owner


def _newton_schulz(wide: torch.Tensor) -> torch.Tensor:
    """[N, rows, columns], no more rows than columns -> bf16 matrices whose singular values are near one."""
    a, b, c = COEFFICIENTS
    x = wide.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(ITERATIONS):
        squared = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(squared, squared, squared, beta=b, alpha=c), x, beta=a)
    return x
