"""How much one dataset may take, counted from what was offered and what is still arriving. Knows no settings."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from catalog.datasets.models import DatasetFile, DatasetImage
from catalog.uploads.models import Upload
from contracts.dataset import Fate
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import FileKind, kind_of


@dataclass(frozen=True)
class DatasetLimits:
    """What a dataset may hold at most."""

    bytes: int
    images: int


@dataclass
class Filled:
    """What a dataset holds, with what is added to it in mind."""

    limits: DatasetLimits
    bytes: int
    images: int

    def add(self, filename: str, size_bytes: int) -> PatinaError | None:
        """Count a file in; or why it would be too much, and then it is not counted."""
        is_image = kind_of(filename) is FileKind.IMAGE
        if self.bytes + size_bytes > self.limits.bytes:
            return PatinaError(
                FailureCode.TOO_LARGE,
                f"{filename} would take the dataset over {self.limits.bytes} bytes (PATINA_MAX_DATASET_BYTES);"
                f" it has {self.bytes}.",
                "Use another dataset, or raise PATINA_MAX_DATASET_BYTES on the server.",
            )
        if is_image and self.images >= self.limits.images:
            return PatinaError(
                FailureCode.TOO_LARGE,
                f"{filename} would take the dataset over {self.limits.images} images (PATINA_MAX_DATASET_IMAGES).",
                "Use another dataset, or raise PATINA_MAX_DATASET_IMAGES on the server.",
            )
        self.bytes += size_bytes
        self.images += is_image
        return None


def filled(session: Session, owner: str, dataset_id: str, limits: DatasetLimits) -> Filled:
    """What a dataset of the owner holds: files as they were offered, announced uploads in full, images to be read."""
    mine = (DatasetFile.owner == owner, DatasetFile.dataset_id == dataset_id)
    offered = select(func.sum(DatasetFile.bytes)).where(
        *mine, DatasetFile.parent_id.is_(None), DatasetFile.fate != Fate.REJECTED
    )
    arriving = select(func.sum(Upload.length_bytes)).where(
        Upload.owner == owner, Upload.dataset_id == dataset_id, Upload.received_bytes < Upload.length_bytes
    )
    read = select(func.count()).where(DatasetImage.owner == owner, DatasetImage.dataset_id == dataset_id)
    unread = select(func.count()).where(
        *mine, DatasetFile.kind.in_((FileKind.IMAGE, FileKind.URL)), DatasetFile.fate == Fate.PENDING
    )
    return Filled(
        limits,
        int(session.scalar(offered) or 0) + int(session.scalar(arriving) or 0),
        (session.scalar(read) or 0) + (session.scalar(unread) or 0),
    )
