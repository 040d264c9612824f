"""What uses how much: the asking owner's datasets, pictures, weights and uploads."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from api.deps import Here, Owner
from api.schemas.storage import StorageOut, StorageUse
from catalog import storage

router = APIRouter(prefix="/storage", tags=["storage"])


@router.get("", summary="What uses how much")
def read_storage(here: Here, owner: Owner) -> StorageOut:
    with here.database.reading() as session:
        used = storage.usage(session, here.blobs, owner)
    return StorageOut(
        items=[StorageUse(**asdict(use)) for use in used],
        free_bytes=here.blobs.free_bytes(),
        reserve_bytes=here.settings.disk_reserve_bytes,
    )
