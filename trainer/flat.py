"""Everything that is trained as one vector, cut into named groups of named parameters.

One vector makes the gradients of all ranks one reduction, their norm one pass, and an elementwise update one kernel
a group. Knows nothing about what the parameters are for, nor how they are updated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from contracts.memory import ALIGNMENT

NORM_ELEMENTS = 1 << 20
"""Elements whose norm is taken at once: of half precision, a processor first makes a copy in fp32."""


def norm(vector: torch.Tensor) -> float:
    """The Euclidean norm of a long vector, in fp32 whatever its type, without a copy of it."""
    pieces = [torch.linalg.vector_norm(piece, dtype=torch.float32) for piece in vector.split(NORM_ELEMENTS)]
    return float(torch.linalg.vector_norm(torch.stack(pieces)))


class FlatParameters:
    """Named parameters laid out in one vector; each keeps being a view of it, and so does its gradient.

    Args:
        groups: group -> name -> parameter, all of one device and type; the vector has them in this order. Names
            are unique over all groups.
        gradient: whether there is one of the whole vector, into which every parameter's goes.
    """

    def __init__(self, groups: Mapping[str, Mapping[str, nn.Parameter]], *, gradient: bool = True) -> None:
        self._slices: dict[str, tuple[slice, torch.Size]] = {}
        self.named: dict[str, nn.Parameter] = {}
        self.members = {group: tuple(named) for group, named in groups.items()}
        self.groups: dict[str, nn.Parameter] = {}
        """Each group's part of the vector, with its part of the gradient as ``grad``."""
        parts: dict[str, slice] = {}
        end = 0
        for group, named in groups.items():
            begin = end
            for name, parameter in named.items():
                self._slices[name] = (slice(end, end + parameter.numel()), parameter.shape)
                end += math.ceil(parameter.numel() / ALIGNMENT) * ALIGNMENT
                self.named[name] = parameter
            parts[group] = slice(begin, end)
        first = next(iter(self.named.values()))
        self.vector = nn.Parameter(torch.zeros(end, device=first.device, dtype=first.dtype))
        self.gradient = torch.zeros_like(self.vector.data) if gradient else None
        self.vector.grad = self.gradient
        self.count = sum(parameter.numel() for parameter in self.named.values())
        for name, parameter in self.named.items():
            view = self._view(self.vector.data, name)
            view.copy_(parameter.data)
            parameter.data = view
            if self.gradient is not None:
                parameter.grad = self._view(self.gradient, name)
        self._parts = parts
        for group, part in parts.items():
            self.groups[group] = self._parameter(part, (-1,))

    def split(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """A vector of this layout as named tensors (views)."""
        return {name: self._view(vector, name) for name in self._slices}

    def fill(self, vector: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write named tensors into a vector of this layout; every name must be there."""
        for name in self._slices:
            self._view(vector, name).copy_(tensors[name])

    def pieces(self, group: str, elements: int) -> dict[str, nn.Parameter]:
        """A group in pieces of at most ``elements`` (a multiple of ALIGNMENT), with their parts of the gradient."""
        part = self._parts[group]
        starts = range(part.start, part.stop, elements)
        slices = [slice(start, min(start + elements, part.stop)) for start in starts]
        return {f"{group}.{number}": self._parameter(where, (-1,)) for number, where in enumerate(slices)}

    def views(self, group: str, shape: Callable[[Sequence[int]], Sequence[int]]) -> dict[str, nn.Parameter]:
        """A group parameter by parameter in other shapes, with their parts of the gradient."""
        found = {}
        for name in self.members[group]:
            where, own = self._slices[name]
            found[name] = self._parameter(where, shape(own))
        return found

    def padding(self) -> list[torch.Tensor]:
        """What lies in the vector between parameters, and has to stay zero."""
        ends = [where.stop for where, _ in self._slices.values()]
        starts = [*[where.start for where, _ in self._slices.values()][1:], self.vector.numel()]
        return [self.vector.data[end:start] for end, start in zip(ends, starts, strict=True) if end < start]

    def _parameter(self, where: slice, shape: Sequence[int]) -> nn.Parameter:
        parameter = nn.Parameter(self.vector.data[where].view(*shape))
        if self.gradient is not None:
            parameter.grad = self.gradient[where].view(*shape)
        return parameter

    def _view(self, vector: torch.Tensor, name: str) -> torch.Tensor:
        where, shape = self._slices[name]
        return vector[where].view(shape)
