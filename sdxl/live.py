"""How much tensor memory is alive while code runs, counted by the storages that operations make and let go.

A dispatch mode sees every operation, backward and recomputed ones included, on real tensors and on those of the
meta device. Knows nothing about models, and nothing about memory that kernels take inside and give back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

Amount = Any
"""How much is alive: a number, or an array of several kinds; anything with plus and minus."""


class LiveStorages(TorchDispatchMode):
    """Adds up what is alive and tells of each local maximum.

    Args:
        weigh: how much a tensor's whole storage counts for.
        zero: nothing of it.
        at_peak: told what is alive just before something is let go, if anything was made since the last time.
        ignored: tensors whose storages count for nothing, such as a model's own.
    """

    def __init__(
        self,
        weigh: Callable[[torch.Tensor], Amount],
        zero: Amount,
        at_peak: Callable[[Amount], None],
        ignored: Iterable[torch.Tensor] = (),
    ) -> None:
        super().__init__()
        self.live = zero
        self._weigh = weigh
        self._at_peak = at_peak
        self._grown = False
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._ignored = [tensor.untyped_storage() for tensor in ignored]
        self._ignored_addresses = {storage._cdata for storage in self._ignored}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter((args, kwargs, result)):
            if isinstance(value, torch.Tensor):
                self._see(value)
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._tell()

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known or address in self._ignored_addresses:
            return
        amount = self._weigh(tensor)
        self._known[address] = weakref.ref(storage, lambda _: self._gone(address, amount))
        self.live = self.live + amount
        self._grown = True

    def _gone(self, address: int, amount: Amount) -> None:
        self._tell()
        self._known.pop(address, None)
        self.live = self.live - amount

    def _tell(self) -> None:
        if self._grown:
            self._grown = False
            self._at_peak(self.live)


def peak_bytes_of(work: Callable[[], object], ignored: Iterable[torch.Tensor] = ()) -> int:
    """The most bytes of tensors alive at once while ``work`` runs, those it is given included once they are used."""
    peak = 0

    def at_peak(live: int) -> None:
        nonlocal peak
        peak = max(peak, live)

    with LiveStorages(lambda tensor: tensor.untyped_storage().nbytes(), 0, at_peak, ignored):
        work()
    return peak
