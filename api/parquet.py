"""A version's Parquet to the wire, written by a child process while it is sent: the API itself loads no pyarrow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from catalog.datasets.versions import VersionImage

CHILD = (sys.executable, "-m", "catalog.datasets.parquet_child")
PIECE_BYTES = 1 << 20


class Unfinished(Exception):
    """The child ended before the file did; the connection breaks off, so that nobody takes half a file for a whole."""


def pieces(contents: Sequence[VersionImage], storage: str) -> Iterator[bytes]:
    """The file, piece by piece; one group of rows is in memory at a time, and that in the child.

    Raises:
        Unfinished: it could not be written to its end.
    """
    listed = [
        {"row": entry.row.model_dump(mode="json"), "blob_key": entry.blob_key, "mask_key": entry.mask_key}
        for entry in contents
    ]
    request = json.dumps({"storage": storage, "contents": listed}).encode()
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(request)
            child.stdin.close()
            while piece := child.stdout.read(PIECE_BYTES):
                yield piece
            if child.wait() != 0:
                raise Unfinished(f"the child ended with {child.returncode}")
        finally:
            # Also when nobody reads any more.
            child.kill()
