"""One vector for everything trained: names and groups lead to their part of it."""

from __future__ import annotations

import torch
from torch import nn

from contracts.memory import ALIGNMENT
from trainer.flat import FlatParameters

SHAPES = {"a": (3, 5), "b": (7,), "c": (64, 2)}


def zeros(*names: str) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.zeros(SHAPES[name])) for name in names}


class TestNames:
    def test_lead_to_their_part_of_any_such_vector(self) -> None:
        flat = FlatParameters({"all": zeros(*SHAPES)})
        vector = torch.zeros_like(flat.vector.data)
        flat.fill(vector, {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(SHAPES.items())})
        assert [tensor.mean().item() for tensor in flat.split(vector).values()] == [0.0, 1.0, 2.0]

    def test_start_on_a_block_of_the_8_bit_states(self) -> None:
        flat = FlatParameters({"all": zeros(*SHAPES)})
        assert all(tensor.storage_offset() % ALIGNMENT == 0 for tensor in flat.split(flat.vector.data).values())
        assert flat.count == 15 + 7 + 128


class TestGroups:
    def test_share_out_the_vector_and_the_gradient_between_them(self) -> None:
        first, second = zeros("a", "c"), zeros("b")
        flat = FlatParameters({"unet": first, "text_encoder": second})
        (first["a"] * 2).sum().backward()
        (second["b"] * 3).sum().backward()
        assert set(flat.groups["unet"].grad.unique().tolist()) == {0.0, 2.0}  # type: ignore[union-attr]
        assert set(flat.groups["text_encoder"].grad.unique().tolist()) == {0.0, 3.0}  # type: ignore[union-attr]
        flat.groups["text_encoder"].data.fill_(5.0)
        assert second["b"].eq(5.0).all()
        assert first["a"].eq(0.0).all()
        assert sum(group.numel() for group in flat.groups.values()) == flat.vector.numel()
