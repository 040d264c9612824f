"""Adapters held on the model, the least recently used leaving first, bounded in bytes.

Knows nothing about requests. A file is read and checked whole before anything leaves to make room for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

from contracts.adapter import AdapterHeader
from sdxl.formats import load_adapter, read_header
from sdxl.lora import LoraBank


class _Held(NamedTuple):
    bytes: int
    header: AdapterHeader | None


class AdapterCache:
    """What a bank holds.

    Args:
        banks: of the engine's networks; an adapter may have weights for any of them.
        max_bytes: how much adapters may take together; only what one batch needs at once may be more.
        base_identity: of the base; a file that names another is refused. None leaves it unchecked.
    """

    def __init__(self, *banks: LoraBank, max_bytes: int, base_identity: str | None = None) -> None:
        self._banks = banks
        self._max_bytes = max_bytes
        self._base_identity = base_identity
        self._held: OrderedDict[str, _Held] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """What is held, the next to leave first."""
        return tuple(self._held)

    def header(self, key: str, path: Path) -> AdapterHeader | None:
        """What an adapter says of itself, read from its file when it is not held; None: it was made elsewhere.

        Raises:
            PatinaError: WEIGHTS_UNREADABLE.
        """
        held = self._held.get(key)
        return read_header(path) if held is None else held.header

    def hold(self, key: str, path: Path, *, needed: Set[str] = frozenset()) -> None:
        """Have an adapter on the model.

        Args:
            key: what it is called in the bank, its content's hash for one; a key stands for one content.
            path: its file, read only when it is not held.
            needed: keys that must not leave now.

        Raises:
            PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH; what is held stays as it was.
            torch.OutOfMemoryError: nothing of this one is held then.
        """
        if key in self._held:
            self._held.move_to_end(key)
            return
        shapes = {layer: shape for bank in self._banks for layer, shape in bank.shapes.items()}
        adapter = load_adapter(path, layers=shapes, base_identity=self._base_identity)
        size = sum(tensor.numel() for tensor in adapter.state.values()) * self._banks[0].element_bytes
        for other in [*self._held]:
            if self.held_bytes + size <= self._max_bytes:
                break
            if other not in needed:
                for bank in self._banks:
                    bank.remove(other)
                del self._held[other]
        try:
            for bank in self._banks:
                components = tuple(f"{component}." for component in bank.components)
                own = {name: tensor for name, tensor in adapter.state.items() if name.startswith(components)}
                bank.add(key, own, alpha=adapter.alphas)
        except BaseException:
            for bank in self._banks:
                bank.remove(key)
            raise
        self._held[key] = _Held(size, adapter.header)
