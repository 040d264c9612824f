"""What the API answers about what uses how much."""

from __future__ import annotations

from api.schemas.common import Answer


class StorageUse(Answer):
    """What one thing takes."""

    what: str
    """``dataset``, ``generated pictures``, ``weights``, ``previews of runs``, uploads, or ``nothing refers to``."""
    name: str | None
    """Of the dataset."""
    files: int
    bytes: int


class StorageOut(Answer):
    """What your things take, and how much room the server has."""

    items: list[StorageUse]
    """An image that two datasets hold is stored once and counted in both; what nothing refers to goes by itself."""
    free_bytes: int | None
    """Room on the disk of the blob store; null where it is object storage."""
    reserve_bytes: int
    """Room that uploads leave free."""
