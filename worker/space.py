"""Stops reading before the disk is full: what is read waits until there is room. Knows nothing about what is read."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from catalog.blobs import DISK_FULL
from worker.station import Station


class NoRoom(Exception):
    """The disk has no room; nothing is lost, and the text says to its user what is waited for."""


def refuse_full_disk(station: Station, wanted_bytes: int) -> None:
    """Check the room for what is about to be stored, with the reserve left over.

    Raises:
        NoRoom: there is too little.
    """
    free_bytes = station.blobs.free_bytes()
    if free_bytes is not None:
        _refuse(station, free_bytes, wanted_bytes)


def refuse_full_folder(station: Station, folder: str, wanted_bytes: int) -> None:
    """Check the room for a copy in a folder of this machine, with the reserve left over.

    Raises:
        NoRoom: there is too little.
    """
    _refuse(station, shutil.disk_usage(folder).free, wanted_bytes)


@contextlib.contextmanager
def waiting_when_full() -> Iterator[None]:
    """A disk that becomes full all the same is told as what it is.

    Raises:
        NoRoom: it did.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise NoRoom("waits for room: the server's disk is full; free space there") from error
        raise


def _refuse(station: Station, free_bytes: int, wanted_bytes: int) -> None:
    reserve_bytes = station.settings.disk_reserve_bytes
    if free_bytes - wanted_bytes < reserve_bytes:
        raise NoRoom(
            f"waits for room: the server's disk has {free_bytes} bytes free, this needs {wanted_bytes}, and"
            f" {reserve_bytes} are kept in reserve; free space there, or lower PATINA_DISK_RESERVE_BYTES"
        )
