"""Which UNet weights are in place: the base's, or those of a full fine-tune of it.

Knows nothing about adapters, which act on whichever is there. Weights are exchanged in place, so the device
holds one UNet however many fine-tunes there are.
"""

from __future__ import annotations

from pathlib import Path

import torch

from contracts.failures import PatinaError
from sdxl import files as base_files
from sdxl.base import Base
from sdxl.formats import check_full, full_tensors


class UnetVariants:
    """The weights of one UNet; make it before adapters are put on, which rename layers.

    Args:
        base: the loaded base.
        base_identity: fine-tunes that name another base are refused; None leaves it unchecked.
    """

    def __init__(self, base: Base, *, base_identity: str | None = None) -> None:
        self._base = base
        self._base_identity = base_identity
        self._weights = dict(base.unet.named_parameters())
        self._shapes = {key: tuple(tensor.shape) for key, tensor in self._weights.items()}
        self._in_place: Path | None = None
        self._whole = True
        self.exchanges = 0
        """How often weights were exchanged: what was computed from them before is of other weights."""

    def use(self, full_weights: Path | None) -> None:
        """Have a fine-tune's weights, or with None the base's, in place.

        Raises:
            PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH; the base's weights are then in place.
        """
        if self._whole and full_weights == self._in_place:
            return
        if full_weights is not None:
            check_full(full_weights, self._shapes, base_identity=self._base_identity)
        try:
            self._fill(full_weights)
        except PatinaError:
            self._fill(None)
            raise

    @torch.no_grad()
    def _fill(self, full_weights: Path | None) -> None:
        self._whole = False
        self.exchanges += 1
        tensors = base_files.tensors(self._base.files, "unet") if full_weights is None else full_tensors(full_weights)
        for key, tensor in tensors:
            self._weights[key].copy_(tensor)
        self._in_place, self._whole = full_weights, True
