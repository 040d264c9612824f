"""Which weights are in place: the base's, or those of a full fine-tune of it, text encoders included where it has them.

Knows nothing about adapters, which act on whichever is there. Weights are exchanged in place, so the device
holds one of each network however many fine-tunes there are.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch

from contracts.failures import PatinaError
from sdxl import files as base_files
from sdxl.adapter import COMPONENTS
from sdxl.base import Base
from sdxl.formats import check_full, full_tensors, named_weights


class Variants:
    """The weights of one UNet and its text encoders; make it before adapters are put on, which rename layers.

    Args:
        base: the loaded base.
        base_identity: fine-tunes that name another base are refused; None leaves it unchecked.
    """

    def __init__(self, base: Base, *, base_identity: str | None = None) -> None:
        self._base = base
        self._base_identity = base_identity
        self._weights = {component: named_weights(component, getattr(base, component)) for component in COMPONENTS}
        self._in_place: Path | None = None
        self._whole = True
        self._changed: set[str] = set()
        """Networks that may have other weights than the base's."""
        self.exchanges = 0
        """How often weights were exchanged: what was computed from them before is of other weights."""

    def use(self, full_weights: Path | None) -> None:
        """Have a fine-tune's weights, or with None the base's, in place; what a fine-tune lacks is the base's too.

        Raises:
            PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH; the base's weights are then in place.
        """
        if self._whole and full_weights == self._in_place:
            return
        held: set[str] = set()
        if full_weights is not None:
            held = check_full(full_weights, self._weights, base_identity=self._base_identity)
        try:
            self._fill(full_weights, held)
        except PatinaError:
            self._fill(None, set())
            raise

    @torch.no_grad()
    def _fill(self, full_weights: Path | None, held: Set[str]) -> None:
        """``held`` is what the file has weights of."""
        self._whole = False
        self.exchanges += 1
        for component in sorted(self._changed - held):
            for name, tensor in base_files.tensors(self._base.files, component):
                self._weights[component][name].copy_(tensor)
        self._changed |= held
        for component, name, tensor in full_tensors(full_weights) if full_weights is not None else ():
            self._weights[component][name].copy_(tensor)
        self._changed = set(held)
        self._in_place, self._whole = full_weights, True
