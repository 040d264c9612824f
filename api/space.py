"""Refuses to write where the disk is nearly full, before anything is written. Knows nothing about what is written."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from api.deps import Parts
from catalog.blobs import DISK_FULL
from contracts.failures import FailureCode, PatinaError


def refuse_full_disk(here: Parts, store_bytes: int, arriving_bytes: int = 0) -> None:
    """Check the room for what is about to come, with the reserve left over.

    Args:
        store_bytes: what will be written into the blob store.
        arriving_bytes: what will lie beside it, in the home, while it arrives.

    Raises:
        PatinaError: STORAGE_FULL.
    """
    free_bytes = here.blobs.free_bytes()
    if free_bytes is not None:  # most often store and home are on one disk
        _refuse(here, free_bytes, store_bytes + arriving_bytes)
    elif arriving_bytes:
        _refuse(here, shutil.disk_usage(here.settings.folder).free, arriving_bytes)


@contextlib.contextmanager
def told_when_full() -> Iterator[None]:
    """A disk that becomes full all the same is told as what it is.

    Raises:
        PatinaError: STORAGE_FULL.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise PatinaError(FailureCode.STORAGE_FULL) from error
        raise


def _refuse(here: Parts, free_bytes: int, wanted_bytes: int) -> None:
    reserve_bytes = here.settings.disk_reserve_bytes
    if free_bytes - wanted_bytes < reserve_bytes:
        raise PatinaError(
            FailureCode.STORAGE_FULL,
            f"The server's disk has {free_bytes} bytes free; this needs {wanted_bytes},"
            f" and {reserve_bytes} are kept in reserve.",
        )
