"""A version as a zip in Hugging Face's imagefolder form, made while it is sent: one image is in memory at a time.

Uploading it again gives the same content. Knows nothing about SQL or HTTP.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, cast

from catalog.blobs import BlobStore
from catalog.datasets.versions import VersionImage
from contracts.dataset import VersionRow
from contracts.layouts import MASK_SUFFIX

FOLDER = "images"
METADATA = "metadata.jsonl"


class _Pieces:
    """What zipfile writes to: a stream nobody can seek in, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        """As of a file."""
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """As of a file."""

    def take(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._written)
        self._written.clear()
        return data


def pieces(contents: Iterable[VersionImage], blobs: BlobStore) -> Iterator[bytes]:
    """The zip, piece by piece. Equal contents give equal bytes.

    Raises:
        FileNotFoundError: an image of the version is not in the blob store.
    """
    sink = _Pieces()
    lines = []
    # PNG does not compress again.
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as archive:
        for row, blob_key, mask_key in contents:
            archive.writestr(_entry(f"{FOLDER}/{row.image}.png"), blobs.get_bytes(blob_key))
            yield sink.take()
            if mask_key is not None:
                archive.writestr(_entry(f"{FOLDER}/{row.image}{MASK_SUFFIX}.png"), blobs.get_bytes(mask_key))
                yield sink.take()
            lines.append(json.dumps(_line(row), ensure_ascii=False))
        if lines:
            archive.writestr(_entry(METADATA), "\n".join(lines) + "\n")
    yield sink.take()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # dated 1980, so that equal contents give equal bytes
    entry.external_attr = 0o644 << 16
    return entry


def _line(row: VersionRow) -> dict[str, object]:
    return {
        "file_name": f"{FOLDER}/{row.image}.png",
        "text": row.caption,
        "concept": row.concept,
        "repeats": row.repeats,
        "split": row.split,
        "source_name": row.source_name,
    }
