"""A version as one Parquet file that ``datasets.load_dataset("parquet", …)`` reads with images decoded.

The only file of the catalog that imports pyarrow; workers use it, the API does not import it at start. Equal
contents give equal bytes with one version of pyarrow. Knows nothing about SQL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.blobs import BlobStore
from catalog.datasets.versions import VersionImage
from contracts.dataset import COLUMNS

ROWS_A_GROUP = 64
"""Images held in memory at once."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES: dict[str, tuple[Any, dict[str, str]]] = {
    "image": (_IMAGE, {"_type": "Image"}),
    "mask": (_IMAGE, {"_type": "Image"}),
    "caption": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "concept": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "repeats": (pa.int32(), {"dtype": "int32", "_type": "Value"}),
    "split": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "original_width": (pa.int32(), {"dtype": "int32", "_type": "Value"}),
    "original_height": (pa.int32(), {"dtype": "int32", "_type": "Value"}),
    "source_name": (pa.string(), {"dtype": "string", "_type": "Value"}),
}


def write(contents: Sequence[VersionImage], blobs: BlobStore, path: Path) -> None:
    """Write the version's Parquet to ``path``, which appears whole or not at all.

    Raises:
        FileNotFoundError: an image of the version is not in the blob store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_into(contents, blobs, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_into(contents: Sequence[VersionImage], blobs: BlobStore, sink: Any) -> None:
    """Write the version's Parquet to a path or to a file nobody can seek in, a group of rows at a time.

    Raises:
        FileNotFoundError: an image of the version is not in the blob store.
    """
    # PNG and JPEG bytes do not compress again.
    with pq.ParquetWriter(sink, schema(), compression="none") as writer:
        for start in range(0, len(contents), ROWS_A_GROUP):
            group = [_row(entry, blobs) for entry in contents[start : start + ROWS_A_GROUP]]
            writer.write_table(pa.Table.from_pylist(group, schema=schema()))


def schema() -> Any:
    """The columns of contracts.dataset, with the metadata by which Hugging Face datasets knows their features."""
    features = {name: _TYPES[name][1] for name in COLUMNS}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, _TYPES[name][0]) for name in COLUMNS], metadata=metadata)


def _row(entry: VersionImage, blobs: BlobStore) -> dict[str, Any]:
    values = entry.row.model_dump(mode="json")
    # The path carries the image identity, by which the trainer keys cached latents.
    image = {"bytes": blobs.get_bytes(entry.blob_key), "path": f"{entry.row.image}.png"}
    mask = None
    if entry.mask_key is not None:
        mask = {"bytes": blobs.get_bytes(entry.mask_key), "path": f"{entry.row.mask}.png"}
    return {**values, "image": image, "mask": mask}
