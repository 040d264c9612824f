"""Writes a version's Parquet to standard output as it is made: `python -m catalog.datasets.parquet_child`.

The API, which loads no pyarrow, starts it for a download and says on standard input which images there are and where
they lie. Knows nothing about SQL or HTTP.
"""

from __future__ import annotations

import json
import sys
from typing import Any, BinaryIO

from catalog.blobs import BlobStore
from catalog.datasets import parquet
from catalog.datasets.versions import VersionImage
from contracts.dataset import VersionRow


class _Counted:
    """A pipe that says how much went into it, which is all a Parquet writer wants to know of a place."""

    closed = False

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._written = 0

    def write(self, data: Any) -> int:
        """As of a file."""
        self._pipe.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    def flush(self) -> None:
        """As of a file."""
        self._pipe.flush()

    def close(self) -> None:
        """The pipe is closed by whoever opened it."""
        self._pipe.flush()


def main() -> None:
    """Read the request, write the Parquet."""
    request = json.load(sys.stdin)
    contents = [
        VersionImage(VersionRow.model_validate(entry["row"]), entry["blob_key"], entry["mask_key"])
        for entry in request["contents"]
    ]
    parquet.write_into(contents, BlobStore(request["storage"]), _Counted(sys.stdout.buffer))


if __name__ == "__main__":
    main()
